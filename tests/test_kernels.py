"""Compiled kernels against plain ones: sums within rounding, choices exactly, whoever else is in the batch."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest
import torch
from torch import Tensor

from hsae_hub.ops import kernels
from hsae_hub.ops.kernels import plain
from hsae_hub.ops.kernels.uses import BlockGradient

fast: ModuleType = pytest.importorskip("hsae_hub.ops.kernels.fast")
SHAPES = {  # batch, q, n, s, width
    "tree": (37, 6, 50, 8, 100),
    "odd": (7, 5, 9, 3, 33),
    "rows": (20, 7, 30, 1, 65),
    "children": (60, 1, 12, 16, 8),
    "few of many": (2, 3, 5000, 5, 40),
    "one": (1, 1, 1, 1, 1),
    "no tokens": (0, 3, 4, 2, 5),
    "no blocks": (3, 0, 4, 2, 5),
}
Operands = tuple[Tensor, Tensor, Tensor, Tensor, int]


def operands(
    batch: int, q: int, n: int, s: int, width: int, *, skew: bool = False, seed: int = 0
) -> Operands:
    """Tokens, a table, values, blocks, and how many there are of these; skewed ones are mostly the first."""
    g = torch.Generator().manual_seed(seed)
    x, table, values = (
        torch.randn(shape, generator=g) for shape in ((batch, width), (n, s, width), (batch, q, s))
    )
    index = torch.randint(n, (batch, q), generator=g)
    if skew:
        index[torch.rand(batch, q, generator=g) < 0.9] = 0
    return x, table, values, index, n


def results(module: ModuleType, given: Operands) -> list[Tensor]:
    x, table, values, index, n = given
    return [
        module.block_dot(x, table, index),
        module.block_sum(values, index, table),
        module.block_gradient(*BlockGradient.of(x, values, index)[:4], n),
    ]


@pytest.mark.parametrize("shape", ["rows", "few of many", "one", "no blocks"])
@pytest.mark.parametrize("module", [plain, fast])
def test_pairs_in_a_list_may_be_as_many_as_a_token_likes(module: ModuleType, shape: str) -> None:
    x, table, _, index, _ = operands(*SHAPES[shape])
    g = torch.Generator().manual_seed(1)
    taken = torch.rand(index.shape, generator=g) < 0.5
    taken[0] = False
    tokens, rows = taken.nonzero()[:, 0], index[taken]
    values = torch.randn(len(rows), generator=g)
    matrix = torch.zeros(len(x), len(table), dtype=torch.float64)
    matrix.index_put_((tokens, rows), values.double(), accumulate=True)
    table = table[:, 0].contiguous()
    sums = module.pair_sum(values, tokens, rows, table, len(x))
    torch.testing.assert_close(sums, (matrix @ table.double()).float(), rtol=1e-5, atol=1e-5)
    dots = (x.double()[tokens] * table.double()[rows]).sum(1).float()
    torch.testing.assert_close(module.pair_dot(x, table, tokens, rows), dots, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("count", [1, 40, 2000])
@pytest.mark.parametrize("n", [70, 515])
@pytest.mark.parametrize("module", [plain, fast])
def test_the_largest_of_a_batch(module: ModuleType, n: int, count: int) -> None:
    pre = torch.randn(30, n, generator=torch.Generator().manual_seed(0))
    wanted = pre.flatten().topk(count).indices.sort().values
    assert torch.equal(module.largest(pre, count), wanted)
    pre[7, -1] = torch.nan
    assert 8 * n - 1 in module.largest(pre, count), "a NaN is larger than any"
    alike = module.largest(torch.ones(30, n), count)
    assert len(alike) == count and torch.equal(alike, alike.unique())


@pytest.mark.parametrize("skew", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_products_are_the_plain_ones(shape: str, skew: bool) -> None:
    given = operands(*SHAPES[shape], skew=skew)
    wanted = results(
        plain, (*(x.double() if x.is_floating_point() else x for x in given[:4]), given[4])
    )
    for ours, theirs in zip(results(fast, given), wanted, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-4)


def test_operands_need_not_be_contiguous() -> None:
    x, table, values, index, n = operands(9, 4, 20, 3, 30)
    apart = (x.T.contiguous().T, table, values.mT.contiguous().mT, index.T.contiguous().T, n)
    for ours, theirs in zip(
        results(fast, apart), results(fast, (x, table, values, index, n)), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_values_that_are_not_finite_stay_with_their_tokens() -> None:
    x, table, values, index, n = operands(6, 4, 20, 5, 30)
    index[0] = torch.tensor([0, 1, 2, 3])
    index[1:] = index[1:].clamp_min(4)
    table[2, 4, 3], x[1, 0] = torch.inf, torch.nan
    for ours, theirs in zip(
        results(fast, (x, table, values, index, n)),
        results(plain, (x, table, values, index, n)),
        strict=True,
    ):
        assert torch.equal(ours.isfinite(), theirs.isfinite())
        assert not ours.isfinite().all()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many threads any work is spread over."""
    return lambda n: monkeypatch.setattr(fast, "threads_for", lambda _: n)


@pytest.mark.parametrize("shape", ["tree", "rows", "few of many"])
def test_threads_change_no_bit(shape: str, threads: Callable[[int], None]) -> None:
    given = operands(*SHAPES[shape], skew=True)
    pre = torch.randn(9, 1000, generator=torch.Generator().manual_seed(0))
    threads(1)
    alone = [*results(fast, given), fast.top_k(pre, 3)]
    for n in (2, 5):
        threads(n)
        for one, other in zip(alone, [*results(fast, given), fast.top_k(pre, 3)], strict=True):
            assert torch.equal(one, other)


def test_how_blocks_are_numbered_changes_no_bit() -> None:
    x, table, values, index, n = operands(37, 6, 50, 7, 100, skew=True)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    elsewhere = (x, table[order], values, order.argsort()[index], n)
    spaced = (x, torch.cat([table, torch.zeros(30_000, 7, 100)]), values, index, n)
    dots, sums, gradient = results(fast, (x, table, values, index, n))
    for dot, total, _ in (results(fast, elsewhere), results(fast, spaced)):
        assert torch.equal(dot, dots) and torch.equal(total, sums)
    assert torch.equal(results(fast, elsewhere)[2], gradient[order])


def test_other_tokens_change_no_dot_product() -> None:
    x, table, _, index, _ = operands(37, 6, 50, 7, 100, skew=True)
    dots = fast.block_dot(x, table, index)
    for token in range(0, 37, 9):
        one = slice(token, token + 1)
        assert torch.equal(fast.block_dot(x[one], table, index[one]), dots[one])


def test_two_callers_at_once_get_what_each_gets_alone(threads: Callable[[int], None]) -> None:
    threads(2)
    each = [operands(64, 8, 100, 8, 200, seed=seed) for seed in range(4)]
    wanted = [results(fast, given) for given in each]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = pool.map(lambda given: results(fast, given), each)
            for one, other in zip(found, wanted, strict=True):
                assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("n", [64, 1000, 4099])
@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "-inf", "+-inf", "nan"])
def test_the_largest_are_those_of_torch(kind: str, n: int) -> None:
    g = torch.Generator().manual_seed(n)
    pre = torch.randn(40, n, generator=g)
    if kind == "ties":
        pre = pre.round()
    elif kind == "equal":
        pre.zero_()
    elif kind == "-inf":
        pre[:, 3:] = -torch.inf
    elif kind == "+-inf":
        pre[pre.abs() > 2] *= torch.inf
    elif kind == "nan":
        pre[:20, n // 2] = torch.nan
        pre[5] = -torch.nan
    for k in (1, 7):
        ours, theirs = fast.top_k(pre, k), pre.topk(k).indices
        assert all(len(set(row)) == k for row in ours.tolist())
        found, wanted = pre.gather(1, ours).sort().values, pre.gather(1, theirs).sort().values
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


def test_small_work_and_other_tensors_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(4)
    assert kernels.pick(10**9, x).block_dot is fast.block_dot
    assert kernels.pick(10, x).block_dot is plain.block_dot
    for other in (x.double(), x.bfloat16(), x.to("meta")):
        assert kernels.pick(10**9, other).block_dot is plain.block_dot
    assert kernels.pick(10**9, x, table=torch.zeros(2, 3, 4).mT).block_dot is plain.block_dot
    monkeypatch.setattr(kernels, "_fast", lambda: None)
    assert kernels.pick(10**9, x).block_dot is plain.block_dot
