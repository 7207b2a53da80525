"""What attaching leaves behind: nothing, after exceptions, in threads, and when it is gone."""

import contextlib
import gc
import random
import threading
import weakref
from typing import Any

import attach_oracle as oracle
import pytest
import torch
from attach_oracle import PROMPTS, assert_same, hooks_on, logits_of

from hsae_hub.architectures import SAE
from hsae_hub.attach import Attached, attach
from hsae_hub.models import LanguageModel

pytest_plugins = ("attach_fixtures",)


@pytest.mark.parametrize("call", ["steer", "generate", "loss"])
def test_an_exception_leaves_nothing_behind(
    call: str, sae: SAE[Any], plain: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = attach(sae, oracle.fresh_model())
    expected = logits_of(lm, PROMPTS)
    calls = []

    def fail(*_args: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise KeyError("in the middle")
        return real(*_args)

    real = sae.encode
    with monkeypatch.context() as patch, pytest.raises(KeyError, match="in the middle"):
        patch.setattr(sae, "encode", fail)
        if call == "steer":
            with lm.steer({"5": 1.0}):
                lm.generate("Rain", max_new_tokens=2)
                raise KeyError("in the middle")
        elif call == "generate":
            with lm.steer({"5": 0.0}):
                lm.generate("Rain", max_new_tokens=9)
        else:
            with lm.splice() as s, lm.steer({"5": 0.0}):
                s.loss(PROMPTS)
    assert lm._stack() == [] and lm._engine._runner._running is None
    assert hooks_on(lm.lm.hf) == 0
    assert torch.equal(logits_of(lm, PROMPTS), expected)
    assert_same(lm, plain, [])


def test_fifty_random_interventions_leave_the_model_as_it_was(
    lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    rng = random.Random(0)
    hf = lm.lm.hf
    weights = {name: tensor.clone() for name, tensor in hf.state_dict().items()}
    sae_weights = {name: tensor.clone() for name, tensor in sae.weights().items()}
    settings = (hf.config.to_dict(), hf.generation_config.to_dict(), repr(lm.lm.tokenizer))
    expected = logits_of(lm, PROMPTS)
    for _ in range(50):
        live = [i for i in range(sae.d_sae - 1) if i != 7 and sae.shape.parent_of(i) != 7]
        edits = {sae.shape.name(i): rng.choice([0, -1.0, 0.5]) for i in rng.sample(live, 3)}
        with contextlib.suppress(ZeroDivisionError), contextlib.ExitStack() as stack:
            stack.enter_context(lm.steer(edits, mode=rng.choice(["full", "relative"])))
            if rng.random() < 0.5:
                stack.enter_context(lm.splice(error_term=rng.random() < 0.5))
            lm.generate(rng.choice(PROMPTS), max_new_tokens=2)
            if rng.random() < 0.5:
                raise ZeroDivisionError
    assert all(torch.equal(weights[name], tensor) for name, tensor in hf.state_dict().items())
    assert all(torch.equal(sae_weights[name], t) for name, t in sae.weights().items())
    assert settings == (hf.config.to_dict(), hf.generation_config.to_dict(), repr(lm.lm.tokenizer))
    assert hooks_on(hf) == 0 and lm._stack() == []
    assert torch.equal(logits_of(lm, PROMPTS), expected)
    batch = oracle.batch_of(plain, PROMPTS)
    assert torch.equal(hf(**batch).logits, plain.hf(**batch).logits)


def test_threads_get_what_each_gets_alone(lm: Attached, sae: SAE[Any]) -> None:
    other = attach(sae, lm.lm)  # a second attachment to the same model
    plans = [{"12/3": 4.0}, {"5": -3.0}, {"20": 3.0}, {"9": 5.0}]

    def work(plan: dict[str, float], on: Attached) -> str:
        with on.steer(plan):
            return on.generate(PROMPTS[0], max_new_tokens=8)

    alone = [work(plan, lm) for plan in plans]
    unsteered = lm.generate(PROMPTS[0], max_new_tokens=8)
    found: dict[tuple[int, int], str] = {}

    def run(i: int) -> None:
        for turn in range(3):
            found[i, turn] = work(plans[i], other if i % 2 else lm)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(plans))]
    with lm.steer({"12": 5.0}):  # this thread's block is not theirs
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {(i, turn): alone[i] for i in range(len(plans)) for turn in range(3)}
    assert len({unsteered, *alone}) == 5
    assert lm.generate(PROMPTS[0], max_new_tokens=8) == unsteered


def test_a_block_may_be_closed_by_another_thread(lm: Attached) -> None:
    block = lm.steer({"5": 1.0})
    block.__enter__()
    assert len(lm._stack()) == 1
    thread = threading.Thread(target=block.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert lm._stack() == []


def test_nothing_keeps_an_attachment_alive(sae: SAE[Any], plain: LanguageModel) -> None:
    model = oracle.fresh_model()
    lm = attach(sae, model)
    with lm.steer({"5": 1.0}):
        lm.generate("Rain", max_new_tokens=2)
    engine, hf = weakref.ref(lm._engine), weakref.ref(model.hf)
    del lm
    gc.collect()
    assert engine() is None
    assert_same(attach(sae, model), plain, [])  # and the model can be attached to again
    del model
    gc.collect()
    assert hf() is None
