"""Five hundred random interventions, most of which end badly, leave a model as it was, bit for bit."""

import gc
import random
from collections.abc import Callable
from typing import Any

import nnsight
import pytest
import torch
from attach_oracle import hooks_on
from tiny_models import WIDTH, tiny_model
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from hsae_hub.architectures import SAE, build
from hsae_hub.attach import Attached, attach
from hsae_hub.attach.batches import Reading, encode_texts, pad_left
from hsae_hub.attach.generating import greedy
from hsae_hub.attach.running import Placed
from hsae_hub.models import LanguageModel

TEXTS = ["the history of a town", "rain", "it was over then by the river"]


class Broken(Exception):
    """What ends an intervention in the middle."""


class Closed(BaseStreamer):
    """A stream whose reader has gone."""

    def put(self, value: Tensor) -> None:
        raise Broken

    def end(self) -> None:
        pass


class Stop(StoppingCriteria):
    """Stops after the first token."""

    def __call__(self, input_ids: Tensor, scores: Any) -> Tensor:
        return torch.ones(len(input_ids), dtype=torch.bool)


def write(lm: Attached, **more: Any) -> None:
    batch = pad_left(lm.lm, encode_texts(lm.lm, TEXTS))
    lm._engine.generate(batch, greedy(lm.lm, 2), lm._stack(), **more)


def break_later(lm: Attached) -> None:
    """An intervention that fails on the second token."""

    def fail(h: Tensor, reading: Reading) -> Tensor:
        if reading.step:
            raise Broken
        return h + 1

    with lm._using(Placed(lm.hookpoint, fail)):
        write(lm)


def stop_a_trace(lm: Attached) -> None:
    with lm.trace(TEXTS) as tracer:
        nnsight.save(lm.latents.output)
        tracer.stop()


def break_a_trace(lm: Attached) -> None:
    with lm.trace(TEXTS, max_new_tokens=2):
        acts = lm.latents.output
        acts.values[:] = 0
        raise Broken


def break_a_measurement(lm: Attached) -> None:
    def tell(done: int, total: int) -> None:
        raise Broken

    with lm.splice() as spliced:
        spliced.loss(TEXTS, on_progress=tell)


def break_the_block(lm: Attached) -> None:
    write(lm)
    raise Broken


ENDS: list[Callable[[Attached], None]] = [
    write,
    break_later,
    stop_a_trace,
    break_a_trace,
    break_a_measurement,
    break_the_block,
    lambda lm: write(lm, stopping=StoppingCriteriaList([Stop()])),
    lambda lm: write(lm, streamer=Closed()),
]


def alive(lm: Attached) -> tuple[int, int]:
    """Tensors and objects in memory; nnsight keeps something of the last run, so that is always the same one."""
    write(lm)
    gc.collect()
    objects = gc.get_objects()
    return sum(issubclass(type(each), Tensor) for each in objects), len(objects)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.set_num_threads(1)
    return tiny_model("gemma2")


def test_five_hundred_random_interventions(model: LanguageModel) -> None:
    rng = random.Random(0)
    tree = {"n_parents": 12, "n_children": 2, "d_subspace": 2, "k": 4}
    sae: SAE[Any] = build({"architecture": "hsae", "d_in": WIDTH, **tree}, seed=0)
    sae = sae.requires_grad_(False)
    batch = pad_left(model, encode_texts(model, TEXTS))
    hf = model.hf
    before = {name: tensor.clone() for name, tensor in hf.state_dict().items()}
    settings = (hf.config.to_dict(), hf.generation_config.to_dict(), repr(model.tokenizer))
    with torch.no_grad():
        clean = hf(input_ids=batch.ids, attention_mask=batch.mask).logits
    traced = attach(sae, model, hookpoint="layers.1")
    hooked = attach(sae, model, hookpoint="layers.1", engine="hooks")
    expected = traced._engine.logits(batch)
    own = {name: set(vars(module)) for name, module in hf.named_modules()}
    names, broken, start = [sae.shape.name(i) for i in range(sae.d_sae)], 0, (0, 0)
    for turn in range(500):
        if turn == 100:  # what is made once is there by now
            start = alive(traced)
        end = rng.choice(ENDS)
        lm = traced if "trace" in end.__name__ or rng.random() < 0.6 else hooked
        edits = {name: rng.choice([0, -1.0, 0.5]) for name in rng.sample(names, 2)}
        try:
            with lm.steer(edits, units="raw"):
                if rng.random() < 0.5:
                    with lm.splice(error_term=rng.random() < 0.5):
                        end(lm)
                else:
                    end(lm)
        except Exception as error:  # nnsight puts a class of its own over errors from a trace
            assert isinstance(error, Broken)
            broken += 1
        assert traced._stack() == hooked._stack() == []
    finish = alive(traced)
    assert broken > 200
    assert finish[0] <= start[0] and finish[1] < start[1] + 1000, (start, finish)
    assert all(torch.equal(before[name], tensor) for name, tensor in hf.state_dict().items())
    assert settings == (hf.config.to_dict(), hf.generation_config.to_dict(), repr(model.tokenizer))
    assert hooks_on(hf) == 0 and traced._engine._runner._running is None
    assert len(traced.model._edits) == 1, "its own, and no other"
    assert own == {name: set(vars(module)) for name, module in hf.named_modules()}
    assert torch.equal(traced._engine.logits(batch), expected)
    with torch.no_grad():
        assert torch.equal(hf(input_ids=batch.ids, attention_mask=batch.mask).logits, clean)
