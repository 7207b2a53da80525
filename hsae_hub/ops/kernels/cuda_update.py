"""The updates of `plain_update` by Triton, on NVIDIA GPUs: a gradient is summed on the chip, and used there."""

from __future__ import annotations

import torch
import triton
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.ops.kernels import cuda_steps
from hsae_hub.ops.kernels.cuda import Spans, busiest_first, gradient_tile, on, sum_pairs
from hsae_hub.ops.kernels.uses import AdamStep, Learned, Missed, Uses

_TINY = 1e-12  # a row of zeros stays one
_CHUNK = (
    1 << 23
)  # numbers of a gradient of columns that are in memory at a time: 32 MB, which the cache holds
_SIDE = 32  # of the squares in which it is turned
_TILE = 2048  # numbers of a table that a program of four warps holds, with their moments


def square_norms(uses: Uses, unit: Float[Tensor, "n s width"] | None) -> Float[Tensor, " used"]:
    spans = _spans(uses)
    count, s, width = len(spans.blocks), uses.values.shape[1], uses.x.shape[1]
    tile = gradient_tile(s, width, uses.x.element_size())
    parts = _parts(s, width, tile)
    squares = uses.x.new_empty(count, parts, dtype=torch.float32)
    if count:
        along = None if unit is None else _along(uses, spans, unit)
        with on(uses.x):
            cuda_steps.norm_kernel[(count * parts,)](
                uses.x,
                uses.tokens,
                uses.values,
                *spans,
                unit,
                along,
                squares,
                count,
                width,
                UNIT=unit is not None,
                **tile,
            )
    found = squares.new_empty(count)
    found[torch.searchsorted(uses.blocks, spans.blocks)] = squares.sum(1)
    return found


def adam_blocks_(
    learned: Learned,
    uses: Uses,
    adam: AdamStep,
    *,
    unit: bool,
    only_used: bool,
) -> None:
    n, s, width = learned.table.shape
    spans = _spans(uses) if only_used else _spans(uses, n)
    count = len(spans.blocks)
    if count == 0:
        return
    tile = gradient_tile(s, width, uses.x.element_size())
    along = _along(uses, spans, learned.table) if unit else None
    strips = triton.cdiv(width, tile["WIDTH"])
    lengths = uses.x.new_empty(count, s, strips, dtype=torch.float32) if unit else None
    with on(uses.x):
        cuda_steps.adam_kernel[(count * _parts(s, width, tile),)](
            uses.x,
            uses.tokens,
            uses.values,
            *spans,
            *learned,
            along,
            lengths,
            count,
            width,
            *_numbers(adam),
            UNIT=unit,
            **tile,
        )
        if lengths is not None:
            norms = lengths.sum(2).sqrt().clamp_min(_TINY)
            rows, columns = _rows_and_columns(s, width)
            cuda_steps.divide_kernel[(count, triton.cdiv(s, rows))](
                learned.table, spans.blocks, norms, s, width, ROWS=rows, WIDTH=columns
            )


def adam_columns_(
    learned: Learned,
    uses: Uses,
    adam: AdamStep,
) -> None:
    width, n = learned.table.shape
    every = _placed(uses, n)
    step = (
        max(_CHUNK // width // _SIDE, 1) * _SIDE
    )  # so that every chunk begins where loads are wide
    grad = uses.x.new_empty(min(step, n), 1, width, dtype=torch.float32)
    for start in range(0, n, step):
        blocks, firsts, lasts = (part[start : start + step] for part in every)
        spans = busiest_first(blocks - start, firsts, lasts)
        sum_pairs(uses.x, uses.tokens, uses.values, spans, grad)
        grid = triton.cdiv(len(blocks), _SIDE), triton.cdiv(width, _SIDE)
        with on(uses.x):
            cuda_steps.columns_kernel[grid](
                grad,
                *learned,
                start,
                len(blocks),
                n,
                width,
                *_numbers(adam),
                SIDE=_SIDE,
            )


def catch_up_(
    learned: Learned,
    blocks: Int64[Tensor, " blocks"],
    missed: Missed,
    *,
    unit: bool,
) -> None:
    _, s, width = learned.table.shape
    if len(blocks) == 0:
        return
    rows, columns = _rows_and_columns(s, width)
    with on(blocks):
        cuda_steps.catch_up_kernel[(len(blocks), triton.cdiv(s, rows))](
            *learned,
            blocks,
            missed.kinds,
            missed.motion.contiguous(),
            missed.eps,
            missed.first,
            missed.second,
            s,
            width,
            missed.motion.shape[1],
            UNIT=unit,
            ROWS=rows,
            WIDTH=columns,
        )


def _along(uses: Uses, spans: Spans, table: Tensor) -> Float[Tensor, "count s"]:
    """Products of the gradient's rows with the table's."""
    _, s, width = table.shape
    count = len(spans.blocks)
    tile = gradient_tile(s, width, uses.x.element_size())
    strips = triton.cdiv(width, tile["WIDTH"])
    found = uses.x.new_empty(count, s, strips, dtype=torch.float32)
    with on(uses.x):
        cuda_steps.along_kernel[(count * _parts(s, width, tile),)](
            uses.x, uses.tokens, uses.values, *spans, table, found, count, width, **tile
        )
    return found.sum(2)


def _spans(uses: Uses, n: int | None = None) -> Spans:
    """Of the used blocks, or of all `n`; those with the most pairs first."""
    if n is not None:
        return busiest_first(*_placed(uses, n))
    return busiest_first(uses.blocks, uses.starts[:-1], uses.starts[1:])


def _placed(uses: Uses, n: int) -> Spans:
    """Of all `n` blocks, in their order; those without a use begin and end at 0."""
    firsts, lasts = uses.blocks.new_zeros(2, n)
    firsts[uses.blocks] = uses.starts[:-1]
    lasts[uses.blocks] = uses.starts[1:]
    return Spans(torch.arange(n, device=firsts.device), firsts, lasts)


def _parts(s: int, width: int, tile: dict[str, int]) -> int:
    return triton.cdiv(s, tile["ROWS"]) * triton.cdiv(width, tile["WIDTH"])  # type: ignore[no-any-return]


def _rows_and_columns(s: int, width: int) -> tuple[int, int]:
    columns = min(triton.next_power_of_2(width), _TILE)
    return min(triton.next_power_of_2(s), max(1, _TILE // columns)), columns


def _numbers(adam: AdamStep) -> tuple[float, ...]:
    size, eps, beta1, beta2, scale = adam
    return size, eps, beta1, beta2, 1 - beta1, 1 - beta2, scale
