"""The SAE in the user's own traces: what is read there is what hooks see, and what is written goes on."""

import random
import threading
from typing import Any

import attach_oracle as oracle
import nnsight
import pytest
import torch
from attach_oracle import PROMPTS, assert_same, logits_of

from hsae_hub.architectures import SAE, Acts
from hsae_hub.attach import Attached, attach
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel

pytest_plugins = ("attach_fixtures",)


def without(sae: SAE[Any], name: str) -> oracle.Change:
    """One latent taken out, everything else as it is."""
    return lambda h: (
        h - sae.encode(h).dense()[..., sae.shape.index_of(name), None] * oracle.row_of(sae, name)
    )


def active(sae: SAE[Any], plain: LanguageModel) -> str:
    """The parent that acts most on the last token of the first text."""
    states: list[torch.Tensor] = []
    hook = plain.hf.model.layers[oracle.LAYER].register_forward_hook(
        lambda _m, _a, out: states.append(out)
    )
    oracle.logits(plain, PROMPTS)
    hook.remove()
    return str(int(sae.encode(states[0][0, -1]).dense()[: sae.shape.n_parents].argmax()))


def test_reading_changes_nothing(lm: Attached, plain: LanguageModel, sae: SAE[Any]) -> None:
    with lm.trace(PROMPTS):
        acts = nnsight.save(lm.latents.output)
        before = nnsight.save(lm.model.model.layers[oracle.LAYER].output)
        logits = nnsight.save(lm.model.output.logits)
    assert torch.equal(logits, logits_of(lm, PROMPTS)), "bit for bit"
    wanted = sae.encode(before)
    assert torch.equal(acts.values, wanted.values) and torch.equal(acts.indices, wanted.indices)
    assert_same(lm, plain, [])


@pytest.mark.parametrize("way", ["written to", "replaced"])
def test_an_edit_of_the_latents_goes_on(
    way: str, lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    # the two ways in which users of other libraries saw nothing happen: the error term held the edited latents too
    name = active(sae, plain)
    wanted = oracle.logits(plain, PROMPTS, [without(sae, name)])
    if way == "written to":
        with lm.trace(PROMPTS):
            acts = lm.latents.output
            acts.values[acts.indices == int(name)] = 0
            logits = nnsight.save(lm.model.output.logits)
    else:
        with lm.trace(PROMPTS):
            acts = lm.latents.output
            lm.latents.output = acts.keep(acts.indices != int(name))
            logits = nnsight.save(lm.model.output.logits)
    assert (wanted - logits_of(lm, PROMPTS)).abs().max() > 0.1
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5)
    assert_same(lm, plain, [])


def test_edits_hold_in_a_traced_generation(
    lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    name = active(sae, plain)
    with lm.trace(PROMPTS, max_new_tokens=5) as tracer:
        for _ in tracer.iter[:5]:
            acts = lm.latents.output
            acts.values[acts.indices == int(name)] = 0
        ids = nnsight.save(tracer.result)
    assert torch.equal(ids, oracle.tokens(plain, PROMPTS, [without(sae, name)], new=5))


def test_a_trace_stands_inside_the_open_blocks(
    lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    with lm.splice(), lm.steer({"12/3": 2.0}):
        with lm.trace(PROMPTS):
            acts = nnsight.save(lm.latents.output)
            logits = nnsight.save(lm.model.output.logits)
    steered = [oracle.splice(sae), oracle.steer(sae, {"12/3": 2.0})]
    torch.testing.assert_close(logits, oracle.logits(plain, PROMPTS, steered), rtol=0, atol=1e-5)
    assert isinstance(acts, Acts) and lm._stack() == []


def test_gradients_reach_the_latents(lm: Attached, plain: LanguageModel, sae: SAE[Any]) -> None:
    # with an error term that is not detached they would all be zero
    with lm.trace(PROMPTS[:1]):
        acts = lm.latents.output
        acts.values.requires_grad_(True)
        values = nnsight.save(acts.values)
        logits = nnsight.save(lm.model.output.logits)
    (found,) = torch.autograd.grad(logits[0, -1, 100] - logits[0, -1, 200], values)

    batch = oracle.batch_of(plain, PROMPTS[:1])
    leaf: list[torch.Tensor] = []

    def hook(_m: Any, _a: Any, out: torch.Tensor) -> torch.Tensor:
        inner = sae.encode(out)
        z = inner.values.clone().requires_grad_(True)
        leaf.append(z)
        y = sae.decode(inner.replace(z)) + (out - sae.decode(inner)).detach()
        keep = torch.ones(1, out.shape[1], 1).bool()
        keep[:, 0] = False  # BOS
        return torch.where(keep, y, out)

    handle = plain.hf.model.layers[oracle.LAYER].register_forward_hook(hook)
    out = plain.hf(**batch).logits
    handle.remove()
    (wanted,) = torch.autograd.grad(out[0, -1, 100] - out[0, -1, 200], leaf[0])
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_call_inside_a_trace_is_refused(lm: Attached, plain: LanguageModel) -> None:
    # nnsight alone would answer it, without the interventions and without a word
    with pytest.raises(Exception, match="stands inside a trace"):
        with lm.trace(PROMPTS):
            lm.generate("Rain", max_new_tokens=1)
    assert_same(lm, plain, [])


def test_an_error_or_a_stop_in_a_trace_leaves_nothing(lm: Attached, plain: LanguageModel) -> None:
    with lm.steer({"5": 2.0}):
        with pytest.raises(Exception, match="in the middle"):
            with lm.trace(PROMPTS):
                acts = lm.latents.output
                raise KeyError(f"in the middle {acts.d_sae}")
        with lm.trace(PROMPTS) as tracer:
            nnsight.save(lm.latents.output)
            tracer.stop()
    assert lm._engine._runner._running is None
    assert_same(lm, plain, [])


def test_traces_take_turns_with_everything_else(lm: Attached) -> None:
    rng, wrong = random.Random(0), []
    plans = [{"12/3": 4.0}, {"5": -3.0}, {"20": 3.0}]
    alone = []
    for plan in plans:
        with lm.steer(plan):
            alone.append(logits_of(lm, PROMPTS[:1]))

    def traced(plan: dict[str, float]) -> torch.Tensor:
        with lm.steer(plan):
            with lm.trace(PROMPTS[:1]):
                logits = nnsight.save(lm.model.output.logits)
        return logits

    def work(i: int) -> None:
        for _ in range(4):
            with lm.steer(plans[i]):
                found = logits_of(lm, PROMPTS[:1])
            found = traced(plans[i]) if rng.random() < 0.5 else found
            if not torch.equal(found, alone[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_without_nnsight_there_are_no_traces(sae: SAE[Any], lm: Attached) -> None:
    simple = attach(sae, lm.lm, engine="hooks")
    for ask in (lambda: simple.trace("Rain"), lambda: simple.model):
        with pytest.raises(UsageError, match="run through plain hooks"):
            ask()
    assert simple.latents is None
