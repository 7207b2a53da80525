"""The kernels by Triton, on NVIDIA GPUs; what they do not cover is left to plain torch.

Blocks that many tokens share are read once: pairs (token, block) are sorted by block, and a program takes pairs of one
block. No sum is made by atomic additions, so that the same input gives the same bits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import triton
from jaxtyping import Float, Int64
from torch import Tensor
from torch.cuda import device_of

from hsae_hub.ops.kernels import cuda_blocks, cuda_top_k, plain
from hsae_hub.ops.kernels.uses import by_block

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_TILE = 4096  # values that a program of four warps has under way at once: 32 a thread
_STRIP = 256  # columns of a row read at once; 2304 = 9 · 256
_ROWS = 64  # of a block, at most, in one product of tiles
_PAIRS = 32  # of a block at once; 4,096 tokens of 32 blocks of 16,384 have 8 a block
_WORTH_SORTING = 2**28  # bytes of blocks; reading as much takes as long as the sort's few launches
_MOST_IN_ORDER = 4096  # of a row, which one program puts in order


def block_dot(
    x: Float[Tensor, "batch width"],
    table: Float[Tensor, "n s width"],
    index: Int64[Tensor, "batch q"],
) -> Float[Tensor, "batch q s"]:
    (batch, q), (_, s, width) = index.shape, table.shape
    x, index = x.contiguous(), index.contiguous()
    if not _covered(x, table):
        return plain.block_dot(x, table, index)
    out = x.new_empty(batch, q, s)
    if out.numel() == 0:
        return out
    if s > 1 and index.numel() * s * width * table.element_size() >= _WORTH_SORTING:
        _grouped_dot(x, table, index, out)
        return out
    tokens, rows, columns = _tile(q * s, width)
    grid = (triton.cdiv(batch, tokens) * triton.cdiv(q * s, rows),)
    with on(x):
        cuda_blocks.dot_kernel[grid](
            x, table, index, out, batch, q, width, S=s, TOKENS=tokens, ROWS=rows, WIDTH=columns
        )
    return out


def block_sum(
    values: Float[Tensor, "batch q s"],
    index: Int64[Tensor, "batch q"],
    table: Float[Tensor, "n s width"],
) -> Float[Tensor, "batch width"]:
    (batch, q), (_, s, width) = index.shape, table.shape
    values, index = values.contiguous(), index.contiguous()
    if not _covered(values, table):
        return plain.block_sum(values, index, table)
    out = table.new_empty(batch, width)
    if out.numel() == 0:
        return out
    tokens, rows, columns = _tile(q * s, width)
    grid = (triton.cdiv(batch, tokens) * triton.cdiv(width, columns),)
    with on(values):
        cuda_blocks.sum_kernel[grid](
            values, index, table, out, batch, q, width, S=s, TOKENS=tokens, ROWS=rows, WIDTH=columns
        )
    return out


def block_gradient(
    x: Float[Tensor, "batch width"],
    tokens: Int64[Tensor, " pairs"],
    values: Float[Tensor, "pairs s"],
    blocks: Int64[Tensor, " pairs"],
    n: int,
) -> Float[Tensor, "n s width"]:
    s, width = values.shape[1], x.shape[1]
    x, values = x.contiguous(), values.contiguous()
    if not _covered(x, values):
        return plain.block_gradient(x, tokens, values, blocks, n)
    out = x.new_empty(n, s, width)
    if out.numel() == 0:
        return out
    order, starts = by_block(blocks, n)
    sum_pairs(
        x,
        tokens[order],
        values[order],
        busiest_first(torch.arange(n, device=x.device), starts[:-1], starts[1:]),
        out,
    )
    return out


pair_dot, pair_sum, largest = plain.pair_dot, plain.pair_sum, plain.largest


def top_k(pre: Float[Tensor, "batch n"], k: int) -> Int64[Tensor, "batch k"]:
    batch, n = pre.shape
    some = triton.next_power_of_2(max(k, 1))
    groups = triton.next_power_of_2(int((some * n) ** 0.5))  # as few maxima as candidates
    members = triton.next_power_of_2(triton.cdiv(n, groups))
    fits = max(groups, some * members) <= _MOST_IN_ORDER and some <= groups
    if not (fits and 0 < k <= n) or batch == 0 or pre.dtype not in DTYPES:
        return plain.top_k(pre, k)
    out = torch.empty(batch, k, dtype=torch.int64, device=pre.device)
    with on(pre):
        cuda_top_k.top_k_kernel[(batch,)](
            pre.contiguous(), out, n, k, K=some, GROUPS=groups, MEMBERS=members, num_warps=8
        )
    return out


class Spans(NamedTuple):
    """Blocks, and where the pairs of each begin and end."""

    blocks: Int64[Tensor, " count"]
    firsts: Int64[Tensor, " count"]
    lasts: Int64[Tensor, " count"]


def busiest_first(
    blocks: Int64[Tensor, " count"],
    firsts: Int64[Tensor, " count"],
    lasts: Int64[Tensor, " count"],
) -> Spans:
    """Those with the most pairs come first: they take longest, and none is left for the end."""
    order = (lasts - firsts).argsort(descending=True)
    return Spans(blocks[order], firsts[order], lasts[order])


def gradient_tile(s: int, width: int, element_size: int) -> dict[str, int]:
    """What one program sums of a gradient: pairs at once, rows and columns."""
    rows = min(triton.next_power_of_2(s), _ROWS)
    columns = min(triton.next_power_of_2(width), 2 * _STRIP // element_size, 2 * _TILE // rows)
    return {"S": s, "PAIRS": _PAIRS if s > 1 else _PAIRS // 2, "ROWS": rows, "WIDTH": columns}


def sum_pairs(
    x: Float[Tensor, "batch width"],
    tokens: Int64[Tensor, " pairs"],
    values: Float[Tensor, "pairs s"],
    spans: Spans,
    out: Float[Tensor, "n s width"],
) -> None:
    """Puts into each block of `out` that has a span the sum of `values[p] ⊗ x[tokens[p]]` over its pairs."""
    _, s, width = out.shape
    tile = gradient_tile(s, width, x.element_size())
    parts = triton.cdiv(s, tile["ROWS"]) * triton.cdiv(width, tile["WIDTH"])
    count = len(spans.blocks)
    with on(x):
        cuda_blocks.gradient_kernel[(count * parts,)](
            x, tokens, values, *spans, out, count, width, **tile
        )


def on(x: Tensor) -> AbstractContextManager[None]:
    """Within it kernels start on the device of `x`."""
    return device_of(x)  # type: ignore[no-untyped-call]


def _grouped_dot(x: Tensor, table: Tensor, index: Tensor, out: Tensor) -> None:
    (n, s, width), q = table.shape, index.shape[1]
    order, starts = by_block(index.flatten(), n)
    tiles = (starts.diff() + _PAIRS - 1) // _PAIRS
    ends = tiles.cumsum(0)
    most = triton.cdiv(index.numel(), _PAIRS) + min(n, index.numel())
    owners = torch.searchsorted(ends, torch.arange(most, device=x.device), right=True)
    rows = min(triton.next_power_of_2(s), _ROWS)
    grid = (most, triton.cdiv(s, rows))
    with on(x):
        cuda_blocks.grouped_dot_kernel[grid](
            x,
            table,
            order,
            starts,
            ends - tiles,
            owners,
            out,
            n,
            q,
            width,
            S=s,
            PAIRS=_PAIRS,
            ROWS=rows,
            WIDTH=max(16, min(triton.next_power_of_2(width), _STRIP // x.element_size())),
        )


def _covered(x: Tensor, table: Tensor) -> bool:
    return x.dtype == table.dtype and x.dtype in DTYPES and table.is_contiguous()


def _tile(rows: int, width: int) -> tuple[int, int, int]:
    """Tokens, rows of each and columns that a program reads at once."""
    columns = min(triton.next_power_of_2(width), _STRIP)
    rows = min(triton.next_power_of_2(max(rows, 1)), max(1, _TILE // columns))
    return max(1, _TILE // (rows * columns)), rows, columns
