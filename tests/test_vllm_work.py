"""What is done in a request of vLLM, on a stand-in for its modules; vLLM itself: test_vllm.py."""

from typing import Any

import pytest
import torch
from nnsight import NNsight
from torch import Tensor
from vllm_stand_in import WIDTH, InParts, Whole

from hsae_hub.attach.batches import Reading
from hsae_hub.attach.gates import Where
from hsae_hub.attach.shipping import moved
from hsae_hub.attach.splicing import Replace
from hsae_hub.attach.steering import Push, Steering
from hsae_hub.attach.two_parts import joined, parted
from hsae_hub.attach.vllm_work import Part, Request, Work, take_step

IDS = torch.tensor([1, 5, 3, 9, 4], dtype=torch.int32)
SPECIAL = torch.tensor([1])
ADDED = torch.linspace(-2, 2, WIDTH)


def add(activations: Tensor, reading: Reading) -> Tensor:
    return torch.where(reading.ordinary[..., None], activations + ADDED, activations)


def through(parts: list[Part]) -> dict[str, Any]:
    """What comes home of one step of the stand-in."""
    model = NNsight(InParts())
    request = Request(Work(parts, SPECIAL, True))
    home: dict[str, Any] = {"steps": 0, "kept": []}
    with torch.no_grad(), model.trace(input_ids=IDS, positions=torch.arange(len(IDS))):
        take_step(model, request, home)
    return home


@torch.no_grad()
def wanted(place: str = "", side: str = "output") -> tuple[Tensor, Tensor]:
    """Activations at a place of the model with one stream, and its logits with them changed, by a plain hook."""
    model = Whole()
    seen: list[Tensor] = []

    def change(h: Tensor) -> Tensor:
        seen.append(h)
        return torch.where((IDS != 1)[:, None], h + ADDED, h)

    if place and side == "output":
        model.get_submodule(place).register_forward_hook(lambda _m, _args, out: change(out))
    elif place:
        model.get_submodule(place).register_forward_pre_hook(
            lambda _m, args: (*args[:-1], change(args[-1]))
        )
    logits = model.compute_logits(model(IDS, torch.arange(len(IDS))))
    return (seen[0] if seen else torch.empty(0)), logits


PLACES = [
    ("model.layers.1", "output", True),
    ("model.layers.2", "output", True),
    ("model.layers.0", "input", True),
    ("model.layers.1", "input", True),
    ("model.layers.1.mlp", "output", False),
    ("model.layers.1.mlp", "input", False),
    ("model.layers.1.self_attn", "output", False),
    ("model.layers.1.self_attn", "input", False),
]


@pytest.mark.parametrize(("path", "side", "is_stream"), PLACES)
def test_a_step_reads_and_changes_what_a_hook_does(path: str, side: str, is_stream: bool) -> None:
    home = through([Part(path, side == "output", is_stream, (None, add))])
    activations, logits = wanted(path, side)
    torch.testing.assert_close(home["kept"], [activations], rtol=0, atol=1e-5)
    torch.testing.assert_close(home["logits"], logits, rtol=0, atol=1e-5)
    assert home["steps"] == 1
    assert (logits - wanted()[1])[1:].abs().max() > 0.1, "it changes something"


def test_several_places_and_none() -> None:
    torch.testing.assert_close(through([])["logits"], wanted()[1], rtol=0, atol=1e-5)
    zero = Replace(torch.zeros(WIDTH))
    home = through(
        [
            Part("model.layers.0", True, True, (add,)),
            Part("model.layers.1", True, True, (zero, None)),
            Part("model.layers.2", True, True, (None,)),
        ]
    )
    assert home["kept"][0][1:].eq(0).all() and home["kept"][0][0].ne(0).any(), "BOS is left alone"
    assert home["kept"][1].shape == (5, WIDTH)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_parts_stay_as_they_are_where_nothing_changed(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden, residual = (torch.randn(4, 64).to(dtype) * size for size in (1, 100))
    stream = joined((hidden, residual), True)
    assert torch.equal(stream, hidden + residual)
    new = stream.clone()
    new[1] = torch.randn(64).to(dtype)
    first, second = parted((hidden, residual), new, True)
    assert torch.equal(first[[0, 2, 3]], hidden[[0, 2, 3]])
    assert torch.equal(second[[0, 2, 3]], residual[[0, 2, 3]])
    assert torch.equal((first + second)[1], new[1]), "not rounded again"
    # no stream: vLLM's linear layers give a bias beside their output, its norms a residual
    assert torch.equal(joined((hidden, residual), False), hidden)
    assert parted((hidden, None), new, False)[1] is None
    assert torch.equal(parted((hidden, residual), new, False)[1], residual)


def test_a_batch_of_one_in_front_stays() -> None:
    value = torch.randn(1, 4, 8)
    flat = joined(value, True)
    assert flat.shape == (4, 8) and torch.equal(parted(value, flat + 1, True), value + 1)


def test_a_request_knows_what_it_has_read() -> None:
    request = Request(Work([], SPECIAL, False))
    first = request.read(IDS, 0)
    assert first.prompt == 5 and first.ids.tolist() == [IDS.tolist()]
    assert first.ordinary.tolist() == [[False, True, True, True, True]]
    assert not first.generated.any() and first.positions.tolist() == [[0, 1, 2, 3, 4]]
    for number, token in enumerate((7, 1)):
        step = request.read(torch.tensor([token]), 5 + number)
        assert step.generated.tolist() == [True] and step.positions.tolist() == [[5 + number]]
        assert step.ordinary.tolist() == [[token != 1]] and step.step == 1 + number
    # vLLM threw its cache away, and reads all of it again
    again = request.read(torch.tensor([*IDS.tolist(), 7, 1]), 0)
    assert again.ids.tolist() == [[*IDS.tolist(), 7, 1]] and again.prompt == 5
    assert again.generated.tolist() == [False] * 5 + [True] * 2


def test_every_tensor_of_an_intervention_is_moved() -> None:
    push = Push(ADDED, ADDED, Where(latent=None))
    work = Work([Part("a", True, True, (Steering(None, pushes=(push,)), None))], SPECIAL, False)
    (part,) = work.parts(torch.device("meta"))
    steering = part.changes[0]
    assert isinstance(steering, Steering) and part.changes[1] is None
    assert steering.pushes[0].scaled.device.type == steering.pushes[0].added.device.type == "meta"
    assert steering.pushes[0].where is not None and part.path == "a"
    assert work.parts(torch.device("meta"))[0] is part, "once"
    assert moved("text", torch.device("meta")) == "text"
