"""The Triton kernels against plain torch: on a GPU, or anywhere with TRITON_INTERPRET=1 (`test_triton.py` does that).

The interpreter takes bfloat16 for whole numbers in products of tiles, so that float16 stands for both there.
"""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from hsae_hub.ops.kernels import cuda, plain
from hsae_hub.ops.kernels.uses import BlockGradient

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16
SHAPES = [  # batch, q, n, s, width
    (5, 3, 7, 1, 40),
    (5, 3, 7, 4, 40),
    (6, 4, 3, 5, 300),  # every block is shared, and has more columns than a strip
    (40, 2, 2, 3, 24),  # more pairs of a block than a tile has
    (9, 1, 4, 70, 8),  # more rows than a tile has
]
WAYS = pytest.mark.parametrize("sorts", [False, True], ids=["by token", "by block"])


def close(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    limit = 2e-6 if dtype == torch.float32 else 8e-3 if dtype == torch.bfloat16 else 1e-3
    assert (got.double() - want).norm() <= limit * want.norm()


def parts(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, q, n, s, width = shape
    g = torch.Generator().manual_seed(0)
    x, table, values = (
        torch.randn(size, generator=g).to(DEVICE, dtype)
        for size in ((batch, width), (n, s, width), (batch, q, s))
    )
    return x, table, values, torch.randint(n, (batch, q), generator=g).to(DEVICE)


def gradient(module: ModuleType, x: Tensor, values: Tensor, index: Tensor, n: int) -> Tensor:
    found: Tensor = module.block_gradient(*BlockGradient.of(x, values, index)[:4], n)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@WAYS
def test_dots(
    shape: tuple[int, ...], dtype: torch.dtype, sorts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_WORTH_SORTING", 0 if sorts else 2**60)
    x, table, _, index = parts(shape, dtype)
    want = plain.block_dot(x.double(), table.double(), index)
    close(cuda.block_dot(x, table, index), want, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_and_gradients(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, table, values, index = parts(shape, dtype)
    n = len(table) + 2  # blocks that no token has
    want = plain.block_sum(values.double(), index, table.double())
    close(cuda.block_sum(values, index, table), want, dtype)
    want = gradient(plain, x.double(), values.double(), index, n)
    close(gradient(cuda, x, values, index, n), want, dtype)


def test_bfloat16_is_summed_in_float32() -> None:
    x, table, values, index = parts((5, 30, 7, 1, 40), torch.bfloat16)
    want = plain.block_sum(values.double(), index, table.double())
    close(cuda.block_sum(values, index, table), want, torch.bfloat16)
    want = plain.block_dot(x.double(), table.double(), index)
    close(cuda.block_dot(x, table, index), want, torch.bfloat16)
    want = gradient(plain, x.double(), values.double(), index, 7)
    close(gradient(cuda, x, values, index, 7), want, torch.bfloat16)


@pytest.mark.parametrize(("batch", "q"), [(0, 3), (4, 0)])
@WAYS
def test_nothing_to_sum(batch: int, q: int, sorts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_WORTH_SORTING", 0 if sorts else 2**60)
    x, table, values, index = parts((batch, q, 6, 2, 8), torch.float32)
    assert cuda.block_dot(x, table, index).shape == (batch, q, 2)
    assert torch.equal(cuda.block_sum(values, index, table), torch.zeros_like(x))
    assert torch.equal(gradient(cuda, x, values, index, 6), torch.zeros_like(table))


@WAYS
def test_tables_of_more_than_2_31_values(sorts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_WORTH_SORTING", 0 if sorts else 2**60)
    x, few, values, index = parts((2, 2, 2, 2, 2048), torch.float16)
    n = 2**19 + 2
    table = torch.empty(n, 2, 2048, dtype=torch.float16, device=DEVICE)  # pages come with use
    table[n - 2 :] = few
    far = index + n - 2
    assert torch.equal(cuda.block_dot(x, table, far), cuda.block_dot(x, few, index))
    assert torch.equal(cuda.block_sum(values, far, table), cuda.block_sum(values, index, few))


def test_what_the_kernels_do_not_cover_is_done_by_plain_torch() -> None:
    x, table, values, index = parts((4, 2, 6, 2, 8), torch.float64)
    torch.testing.assert_close(
        cuda.block_dot(x, table, index), plain.block_dot(x, table, index), rtol=0, atol=0
    )
    turned = table.mT.contiguous().mT
    want = plain.block_sum(values, index, table).float()
    got = cuda.block_sum(values.float(), index, turned.float())
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (8, 8), (40, 3), (200, 12)])
def test_the_largest_are_found(n: int, k: int, dtype: torch.dtype) -> None:
    pre = torch.randn(6, n, generator=torch.Generator().manual_seed(0))
    pre[1] = 0
    pre[2, ::3] = torch.nan
    pre[3] = -torch.inf
    pre[4, : n // 2] = torch.inf
    pre[5].clamp_(max=0.5)  # ties where the last one is taken
    pre = pre.to(DEVICE, dtype)
    indices = cuda.top_k(pre, k)
    assert all(len(set(row)) == k for row in indices.tolist())
    got = pre.gather(1, indices).sort(descending=True).values
    want = pre.topk(k).values
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
