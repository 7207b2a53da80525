"""Triton kernels of the products with blocks of a table; `cuda.py` launches them.

Sums are taken in float32 and in one order, whatever runs first. Places in tables are counted in 64 bits: 16,384 blocks
of 64 rows of 2304 are more than 2³¹ values. Grids name the strip of columns last, so that all tokens pass over one
strip before the next: a strip of a large table stays in the second-level cache, and the table is read once.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def sum_kernel(
    values,
    index,
    table,
    out,
    batch,
    q,
    width,
    S: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """A strip of `block_sum` for TOKENS tokens, which read ROWS of their `q · S` rows at once."""
    tiles = tl.cdiv(batch, TOKENS)
    program = tl.program_id(0)
    token = (program % tiles).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    column = (program // tiles) * WIDTH + tl.arange(0, WIDTH)
    is_token, is_column = token < batch, column < width
    sums = tl.zeros((TOKENS, ROWS, WIDTH), tl.float32)
    for start in range(0, q * S, ROWS):
        place = start + tl.arange(0, ROWS)
        known = is_token[:, None] & (place < q * S)[None, :]
        block = tl.load(index + token[:, None] * q + (place // S)[None, :], known, 0)
        value = tl.load(values + token[:, None] * (q * S) + place[None, :], known, 0)
        row = block * S + (place % S)[None, :]
        tile = tl.load(
            table + row[:, :, None] * width + column[None, None, :],
            known[:, :, None] & is_column[None, None, :],
            0,
        )
        sums += value.to(tl.float32)[:, :, None] * tile.to(tl.float32)
    tl.store(
        out + token[:, None] * width + column[None, :],
        tl.sum(sums, 1).to(out.dtype.element_ty),
        is_token[:, None] & is_column[None, :],
    )


@triton.jit
@no_type_check
def dot_kernel(
    x,
    table,
    index,
    out,
    batch,
    q,
    width,
    S: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """ROWS of the `q · S` values of `block_dot` for TOKENS tokens, each of which reads its own blocks."""
    tiles = tl.cdiv(batch, TOKENS)
    program = tl.program_id(0)
    token = (program % tiles).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    place = (program // tiles) * ROWS + tl.arange(0, ROWS)
    is_token = token < batch
    known = is_token[:, None] & (place < q * S)[None, :]
    block = tl.load(index + token[:, None] * q + (place // S)[None, :], known, 0)
    row = block * S + (place % S)[None, :]
    dots = tl.zeros((TOKENS, ROWS, WIDTH), tl.float32)
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        is_column = column < width
        there = is_token[:, None] & is_column[None, :]
        left = tl.load(x + token[:, None] * width + column[None, :], there, 0)
        tile = tl.load(
            table + row[:, :, None] * width + column[None, None, :],
            known[:, :, None] & is_column[None, None, :],
            0,
        )
        dots += left.to(tl.float32)[:, None, :] * tile.to(tl.float32)
    tl.store(
        out + token[:, None] * (q * S) + place[None, :],
        tl.sum(dots, 2).to(out.dtype.element_ty),
        known,
    )


@triton.jit
@no_type_check
def grouped_dot_kernel(
    x,
    table,
    order,
    starts,
    tile_starts,
    owners,
    out,
    n,
    q,
    width,
    S: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """`block_dot` of up to PAIRS pairs of one block: its rows are read once for all of them, and x where it lies."""
    tile = tl.program_id(0)
    block = tl.load(owners + tile)
    if block < n:
        first = tl.load(starts + block) + (tile - tl.load(tile_starts + block)) * PAIRS
        place = first + tl.arange(0, PAIRS)
        known = place < tl.load(starts + block + 1)
        pair = tl.load(order + place, known, 0)
        token = pair // q
        row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        is_row = row < S
        dots = tl.zeros((PAIRS, ROWS), tl.float32)
        for start in range(0, width, WIDTH):
            column = start + tl.arange(0, WIDTH)
            is_column = column < width
            left = tl.load(
                x + token[:, None] * width + column[None, :],
                known[:, None] & is_column[None, :],
                0,
            )
            right = tl.load(
                table + (block * S + row[:, None]) * width + column[None, :],
                is_row[:, None] & is_column[None, :],
                0,
            )
            dots = tl.dot(left, tl.trans(right), dots, input_precision="ieee")
        tl.store(
            out + pair[:, None] * S + row[None, :],
            dots.to(out.dtype.element_ty),
            known[:, None] & is_row[None, :],
        )


@triton.jit
@no_type_check
def gradient_tile(
    x,
    tokens,
    values,
    first,
    last,
    width,
    row,
    column,
    S: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """`values[p, row] · x[tokens[p], column]`, summed over the pairs `first … last - 1`, those of one block."""
    is_column = column < width
    if S == 1:
        single = tl.zeros((PAIRS, WIDTH), tl.float32)
    else:
        sums = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(first, last, PAIRS):
        pair = start + tl.arange(0, PAIRS)
        known = pair < last
        token = tl.load(tokens + pair, known, 0)
        right = tl.load(
            x + token[:, None] * width + column[None, :], known[:, None] & is_column[None, :], 0
        )
        if S == 1:
            value = tl.load(values + pair, known, 0)
            single += value.to(tl.float32)[:, None] * right.to(tl.float32)
        else:
            left = tl.load(
                values + pair[None, :] * S + row[:, None], known[None, :] & (row < S)[:, None], 0
            )
            sums = tl.dot(left, right, sums, input_precision="ieee")
    if S == 1:
        sums = tl.sum(single, 0)[None, :]
    return sums


@triton.jit
@no_type_check
def gradient_kernel(
    x,
    tokens,
    values,
    blocks,
    firsts,
    lasts,
    out,
    count,
    width,
    S: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The gradient of ROWS rows and WIDTH columns of one block; zeros where it has no pair."""
    at = tl.program_id(0) % count
    part = tl.program_id(0) // count
    row = (part % tl.cdiv(S, ROWS)) * ROWS + tl.arange(0, ROWS)
    column = (part // tl.cdiv(S, ROWS)) * WIDTH + tl.arange(0, WIDTH)
    first, last = tl.load(firsts + at), tl.load(lasts + at)
    sums = gradient_tile(x, tokens, values, first, last, width, row, column, S, PAIRS, ROWS, WIDTH)
    tl.store(
        out + (tl.load(blocks + at) * S + row[:, None]) * width + column[None, :],
        sums.to(out.dtype.element_ty),
        (row < S)[:, None] & (column < width)[None, :],
    )
