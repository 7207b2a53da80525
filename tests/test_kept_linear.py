"""The encoder that keeps a few entries a token, against the dense formula under autograd."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hsae_hub.architectures import TrainStep, build
from hsae_hub.ops import topk_linear

BATCH, D_IN, N, K = 7, 520, 40, 5  # two whole strips of columns and a part of one
FLAT = {"architecture": "topk", "d_sae": 512, "k": 4}
TREE = {"architecture": "hsae", "n_parents": 512, "n_children": 2, "d_subspace": 2, "k": 4}
LATE = TrainStep(2000, 10_000)


def largest(pre: Tensor) -> Tensor:
    return pre.topk(K, sorted=False).indices


def dense(x: Tensor, W: Tensor, bias: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pre = torch.addmm(bias, x - centre, W)
    return pre, *pre.topk(K, sorted=False)


def sparse(x: Tensor, W: Tensor, bias: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return topk_linear(x, W, largest, bias=bias, centre=centre)


def operands(dtype: torch.dtype) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = ((BATCH, D_IN), (D_IN, N), (N,), (D_IN,))
    made = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
    return [x.to(dtype).requires_grad_() for x in made]


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "values": lambda pre, values: values.square().sum(),
    "pre": lambda pre, values: pre.sin().sum(),
    "both": lambda pre, values: pre.sin().sum() + values.square().sum(),
}


@pytest.mark.parametrize("frozen_tokens", [False, True])
@pytest.mark.parametrize("used", LOSSES)
def test_values_and_gradients_are_those_of_the_dense_formula(
    used: str, frozen_tokens: bool
) -> None:
    found: list[list[Tensor]] = []
    for way in (dense, sparse):
        given = operands(torch.float64)
        given[0].requires_grad_(not frozen_tokens)
        pre, values, indices = way(*given)
        LOSSES[used](pre, values).backward()
        found.append([pre, values, indices, *(x.grad for x in given if x.grad is not None)])
    assert len(found[0]) == (6 if frozen_tokens else 7)
    for i, (one, other) in enumerate(zip(*found, strict=True)):
        if i < 3:
            assert torch.equal(one, other)
        else:
            torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-10)


def test_float32_gradients_are_as_near_to_the_truth_as_the_dense_ones() -> None:
    truth = operands(torch.float64)
    dense(*truth)[1].square().sum().backward()
    for way in (dense, sparse):
        tokens, *given = operands(torch.float32)
        way(tokens.detach(), *given)[1].square().sum().backward()
        for x, exact in zip(given, truth[1:], strict=True):
            distance = (x.grad - exact.grad).norm() / exact.grad.norm()
            assert distance < 1e-6


def test_bfloat16_sums_have_the_precision_of_float32() -> None:
    x = torch.ones(1000, 3, dtype=torch.bfloat16)
    W = torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True)
    first = lambda pre: torch.zeros(len(pre), 1, dtype=torch.int64)  # noqa: E731
    topk_linear(x, W, first).values.sum().backward()
    assert W.grad is not None and W.grad[:, 0].tolist() == [1000] * 3


def dense_products(config: dict[str, Any], **settings: Any) -> set[str]:
    """Dense products of tokens and latents in the backward of a step."""
    sae = build({**config, "d_in": 32, **settings}, seed=0)
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    loss = sae.losses(x, LATE)["loss"]
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        loss.backward()
    events = seen.key_averages(group_by_input_shape=True)
    shapes = {str(sorted(map(tuple, e.input_shapes[:2]))) for e in events if e.key == "aten::mm"}
    return shapes & {str([(32, 64), (64, 512)]), str([(32, 512), (64, 512)])}


@pytest.mark.parametrize(
    "config",
    [
        FLAT,
        {**FLAT, "bias": False},
        {**TREE, "l1_over": "active"},
        {**TREE, "lambda_l1": 0.0},
        {**TREE, "l1_over": "active", "bias": True},
    ],
)
def test_a_step_takes_no_dense_gradient_where_none_is_needed(config: dict[str, Any]) -> None:
    assert not dense_products(config)


@pytest.mark.parametrize("config", [TREE, {**FLAT, "dead_after_tokens": 1}])
def test_it_is_dense_where_the_loss_takes_every_pre_activation(config: dict[str, Any]) -> None:
    assert dense_products(config)
