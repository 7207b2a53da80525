"""Sparse products against dense ones, and their gradients."""

import pytest
import torch

from hsae_hub.ops import normalize_rows_, pair_dot, project_out_rows_, weighted_rows


def parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, generator=g, dtype=torch.float64, requires_grad=True)
    table = torch.randn(9, 5, generator=g, dtype=torch.float64, requires_grad=True)
    values = torch.randn(6, 4, generator=g, dtype=torch.float64, requires_grad=True)
    rows = torch.randint(9, (6, 4), generator=g)
    return x, table, values, rows


def test_products_agree_with_gathered_rows() -> None:
    x, table, values, rows = parts()
    torch.testing.assert_close(pair_dot(x, table, rows), torch.einsum("bd,bqd->bq", x, table[rows]))
    torch.testing.assert_close(
        weighted_rows(values, rows, table), torch.einsum("bq,bqd->bd", values, table[rows])
    )


def test_gradients_are_right_also_where_rows_repeat() -> None:
    x, table, values, rows = parts()
    rows[0] = rows[0, 0]
    assert torch.autograd.gradcheck(lambda a, b: pair_dot(a, b, rows), (x, table))
    assert torch.autograd.gradcheck(lambda a, b: weighted_rows(a, rows, b), (values, table))


@pytest.mark.parametrize("frozen", ["x", "table"])
def test_a_frozen_side_gets_no_gradient(frozen: str) -> None:
    x, table, _, rows = parts()
    (x if frozen == "x" else table).requires_grad_(False)
    pair_dot(x, table, rows).sum().backward()
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
