"""Products with two tables, one after the other: the same for few tokens in one pass, for many, and with gradients."""

import pytest
import torch
from torch import Tensor

from hsae_hub.ops import chained, chained_dot, chained_sum

N, S, M, WIDTH, Q = 40, 5, 3, 70, 6


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def places(batch: int, n: int, seed: int) -> Tensor:
    return torch.randint(0, n, (batch, Q), generator=torch.Generator().manual_seed(seed))


OUTER, ATOMS, ROWS = drawn(N, S, WIDTH, seed=0), drawn(N, M, S, seed=1), drawn(N * M, S, seed=2)


@pytest.mark.parametrize("batch", [0, 1, 4, 9])
@pytest.mark.parametrize("learns", [False, True])
def test_products_are_those_of_the_formulas(batch: int, learns: bool) -> None:
    outer, atoms, rows = (table.clone().requires_grad_(learns) for table in (OUTER, ATOMS, ROWS))
    x, values = drawn(batch, WIDTH, seed=3), drawn(batch, Q, seed=4)
    values[:, 1] = 0
    at, inside = places(batch, N, 5), places(batch, N * M, 6)
    dots = torch.einsum("tisj,tj->tis", OUTER[at], x)
    wanted = torch.einsum("tis,tics->tic", dots, ATOMS[at])
    found = chained_dot(x, outer, at, atoms, at)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    wanted = torch.einsum("ti,tis,tisj->tj", values, ROWS[inside], OUTER[at])
    summed = chained_sum(values, rows, inside, outer, at)
    torch.testing.assert_close(summed, wanted, rtol=1e-4, atol=1e-4)
    assert found.requires_grad == summed.requires_grad == learns


def test_one_pass_is_for_a_few_tokens_of_tables_that_do_not_learn() -> None:
    pytest.importorskip("numba")
    x = drawn(2, WIDTH, seed=3)
    assert chained._are_few(x, OUTER, ATOMS)
    assert not chained._are_few(drawn(9, WIDTH, seed=3), OUTER, ATOMS)
    assert not chained._are_few(x, OUTER.clone().requires_grad_(), ATOMS)
    assert not chained._are_few(x, OUTER.mT, ATOMS)
    assert not chained._are_few(x.double(), OUTER, ATOMS)
    assert not chained._are_few(x.clone().requires_grad_(), OUTER, ATOMS)
