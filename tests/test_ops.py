"""Sparse products against dense ones, and their gradients."""

import pytest
import torch
from torch import Tensor

from hsae_hub.ops import (
    block_dot,
    block_sum,
    normalize_rows_,
    project_out_rows_,
    revival_loss,
    weighted_rows,
)


def parts(s: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, generator=g, dtype=torch.float64, requires_grad=True)
    table = torch.randn(9, s, 5, generator=g, dtype=torch.float64, requires_grad=True)
    values = torch.randn(6, 4, s, generator=g, dtype=torch.float64, requires_grad=True)
    index = torch.randint(9, (6, 4), generator=g)
    return x, table, values, index


@pytest.mark.parametrize("s", [1, 3])
def test_products_agree_with_gathered_blocks(s: int) -> None:
    x, table, values, index = parts(s)
    taken = table[index]
    torch.testing.assert_close(block_dot(x, table, index), torch.einsum("bd,bqsd->bqs", x, taken))
    torch.testing.assert_close(
        block_sum(values, index, table), torch.einsum("bqs,bqsd->bd", values, taken)
    )


def test_single_rows_are_blocks_of_one() -> None:
    _, table, values, index = parts(1)
    torch.testing.assert_close(
        weighted_rows(values[..., 0], index, table[:, 0]), block_sum(values, index, table)
    )


@pytest.mark.parametrize("s", [1, 3])
def test_gradients_are_right_also_where_blocks_repeat(s: int) -> None:
    x, table, values, index = parts(s)
    index[0] = index[0, 0]
    assert torch.autograd.gradcheck(lambda a, b: block_dot(a, b, index), (x, table))
    assert torch.autograd.gradcheck(lambda a, b: block_sum(a, index, b), (values, table))


@pytest.mark.parametrize("frozen", ["x", "table"])
def test_a_frozen_side_gets_no_gradient(frozen: str) -> None:
    x, table, _, index = parts(3)
    (x if frozen == "x" else table).requires_grad_(False)
    block_dot(x, table, index).sum().backward()
    assert (x.grad is None) == (frozen == "x") and (table.grad is None) == (frozen == "table")


def test_constraints_work_on_transposed_views() -> None:
    w = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    normalize_rows_(w.mT)
    torch.testing.assert_close(w.norm(dim=1), torch.ones(3, 4))
    grad = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    project_out_rows_(grad.mT, w.mT)
    assert (grad * w).sum(1).abs().max() < 1e-6
    zero = torch.zeros(2, 3)
    normalize_rows_(zero)
    assert not zero.any()


@pytest.mark.parametrize("shape", [(700, 500), (5, 300, 400), (300_000,)])
def test_constraints_of_tables_larger_than_what_is_taken_at_once(shape: tuple[int, ...]) -> None:
    drawn = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    unit, grad = torch.nn.functional.normalize(drawn[0], dim=-1), drawn[1].clone()
    normalize_rows_(drawn[0])
    torch.testing.assert_close(drawn[0], unit)
    project_out_rows_(grad, unit)
    torch.testing.assert_close(grad, drawn[1] - (drawn[1] * unit).sum(-1, keepdim=True) * unit)


@pytest.mark.parametrize("dead", [1, 7, 20])
def test_dead_latents_are_revived_as_sums_of_their_rows(dead: int) -> None:
    g = torch.Generator().manual_seed(0)
    shapes = (6, 30), (30, 10), (6, 10)
    pre, W_dec, error = (torch.randn(s, generator=g, dtype=torch.float64) for s in shapes)
    some = torch.randperm(30, generator=g)[:dead]
    given = pre.clone().requires_grad_(), W_dec.clone().requires_grad_()
    loss = revival_loss(given[0], error, some, given[1])
    wanted_of = pre.clone().requires_grad_(), W_dec.clone().requires_grad_()
    values, places = wanted_of[0][:, some].topk(min(5, dead))
    rows = wanted_of[1][some[places]]
    wanted = (error - (values.relu()[..., None] * rows).sum(1)).square().sum(1).mean()
    torch.testing.assert_close(loss, wanted)
    found = torch.autograd.grad(loss, given)
    for one, other in zip(found, torch.autograd.grad(wanted, wanted_of), strict=True):
        torch.testing.assert_close(one, other)
        assert bool(one.any())
