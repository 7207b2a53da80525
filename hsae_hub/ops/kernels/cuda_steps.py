"""Triton kernels of updates of tables from the pairs that make up their gradients; `cuda_update.py` launches them.

A program sums its tile of a gradient on the chip and uses it there: no gradient is ever in memory. What needs a whole
row, the part of a gradient along it and its norm afterwards, is left strip by strip for the next kernel.
"""

from typing import no_type_check

import triton
import triton.language as tl

from hsae_hub.ops.kernels.cuda_blocks import gradient_tile


@triton.jit
@no_type_check
def along_kernel(
    x,
    tokens,
    values,
    blocks,
    firsts,
    lasts,
    table,
    out,
    count,
    width,
    S: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """A strip's part of the gradient's products with the rows of the table: `out[at, row, strip]`."""
    at = tl.program_id(0) % count
    part = tl.program_id(0) // count
    row = (part % tl.cdiv(S, ROWS)) * ROWS + tl.arange(0, ROWS)
    strip = part // tl.cdiv(S, ROWS)
    column = strip * WIDTH + tl.arange(0, WIDTH)
    known = (row < S)[:, None] & (column < width)[None, :]
    first, last = tl.load(firsts + at), tl.load(lasts + at)
    grad = gradient_tile(x, tokens, values, first, last, width, row, column, S, PAIRS, ROWS, WIDTH)
    place = (tl.load(blocks + at) * S + row[:, None]) * width + column[None, :]
    p = tl.load(table + place, known, 0).to(tl.float32)
    strips = tl.cdiv(width, WIDTH)
    tl.store(out + (at * S + row) * strips + strip, tl.sum(grad * p, 1), row < S)


@triton.jit
@no_type_check
def norm_kernel(
    x,
    tokens,
    values,
    blocks,
    firsts,
    lasts,
    table,
    along,
    out,
    count,
    width,
    UNIT: tl.constexpr,
    S: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The sum of squares of a tile of the gradient: `out[at, part]`."""
    at = tl.program_id(0) % count
    part = tl.program_id(0) // count
    row = (part % tl.cdiv(S, ROWS)) * ROWS + tl.arange(0, ROWS)
    column = (part // tl.cdiv(S, ROWS)) * WIDTH + tl.arange(0, WIDTH)
    first, last = tl.load(firsts + at), tl.load(lasts + at)
    grad = gradient_tile(x, tokens, values, first, last, width, row, column, S, PAIRS, ROWS, WIDTH)
    if UNIT:
        known = (row < S)[:, None] & (column < width)[None, :]
        place = (tl.load(blocks + at) * S + row[:, None]) * width + column[None, :]
        p = tl.load(table + place, known, 0).to(tl.float32)
        grad -= tl.load(along + at * S + row, row < S, 0)[:, None] * p
    parts = tl.cdiv(S, ROWS) * tl.cdiv(width, WIDTH)
    tl.store(out + at * parts + part, tl.sum(tl.sum(grad * grad, 1), 0))


@triton.jit
@no_type_check
def adam_tile(
    table,
    moments,
    squares,
    place,
    known,
    grad,
    size,
    eps,
    beta1,
    beta2,
    rest1,
    rest2,
    scale,
):
    """A step of Adam of the numbers at `place`, of which it returns the new ones."""
    g = scale * grad
    m = beta1 * tl.load(moments + place, known, 0).to(tl.float32) + rest1 * g
    v = beta2 * tl.load(squares + place, known, 0).to(tl.float32) + rest2 * g * g
    p = tl.load(table + place, known, 0).to(tl.float32) - size * m / (tl.sqrt(v) + eps)
    tl.store(moments + place, m.to(moments.dtype.element_ty), known)
    tl.store(squares + place, v.to(squares.dtype.element_ty), known)
    tl.store(table + place, p.to(table.dtype.element_ty), known)
    return p


@triton.jit
@no_type_check
def adam_kernel(
    x,
    tokens,
    values,
    blocks,
    firsts,
    lasts,
    table,
    moments,
    squares,
    along,
    lengths,
    count,
    width,
    size,
    eps,
    beta1,
    beta2,
    rest1,
    rest2,
    scale,
    UNIT: tl.constexpr,
    S: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Adam of a tile; of unit rows a strip's part of their new squared norms: `lengths[at, row, strip]`."""
    at = tl.program_id(0) % count
    part = tl.program_id(0) // count
    row = (part % tl.cdiv(S, ROWS)) * ROWS + tl.arange(0, ROWS)
    strip = part // tl.cdiv(S, ROWS)
    column = strip * WIDTH + tl.arange(0, WIDTH)
    known = (row < S)[:, None] & (column < width)[None, :]
    first, last = tl.load(firsts + at), tl.load(lasts + at)
    grad = gradient_tile(x, tokens, values, first, last, width, row, column, S, PAIRS, ROWS, WIDTH)
    place = (tl.load(blocks + at) * S + row[:, None]) * width + column[None, :]
    if UNIT:
        p = tl.load(table + place, known, 0).to(tl.float32)
        grad -= tl.load(along + at * S + row, row < S, 0)[:, None] * p
    new = adam_tile(
        table, moments, squares, place, known, grad, size, eps, beta1, beta2, rest1, rest2, scale
    )
    if UNIT:
        strips = tl.cdiv(width, WIDTH)
        new = tl.where(known, new, 0)
        tl.store(lengths + (at * S + row) * strips + strip, tl.sum(new * new, 1), row < S)


@triton.jit
@no_type_check
def divide_kernel(table, blocks, norms, s, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Divides rows of the table, a tile of all rows of `blocks`, by `norms[at, row]`."""
    at = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    norm = tl.load(norms + at * s + row, row < s, 1)
    start = (tl.load(blocks + at) * s + row) * width
    for left in range(0, width, WIDTH):
        column = left + tl.arange(0, WIDTH)
        known = (row < s)[:, None] & (column < width)[None, :]
        place = start[:, None] + column[None, :]
        p = tl.load(table + place, known, 0).to(tl.float32) / norm[:, None]
        tl.store(table + place, p.to(table.dtype.element_ty), known)


@triton.jit
@no_type_check
def columns_kernel(
    grad,
    table,
    moments,
    squares,
    start,
    count,
    n,
    width,
    size,
    eps,
    beta1,
    beta2,
    rest1,
    rest2,
    scale,
    SIDE: tl.constexpr,
):
    """Adam of a square of a matrix `[width, n]`, of whose columns from `start` on `grad` has the gradient as rows."""
    block = tl.program_id(0) * SIDE + tl.arange(0, SIDE)
    column = tl.program_id(1).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    known = (block < count)[:, None] & (column < width)[None, :]
    tile = tl.load(grad + block.to(tl.int64)[:, None] * width + column[None, :], known, 0)
    place = column[:, None] * n + (start + block)[None, :]
    known = (column < width)[:, None] & (block < count)[None, :]
    turned = tl.trans(tile.to(tl.float32))
    adam_tile(
        table, moments, squares, place, known, turned, size, eps, beta1, beta2, rest1, rest2, scale
    )


@triton.jit
@no_type_check
def catch_up_kernel(
    table,
    moments,
    squares,
    blocks,
    kinds,
    motion,
    eps,
    first,
    second,
    s,
    width,
    steps,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The missed steps of rows of one block; unit rows are divided by their norm after each, which is known from three
    products: of a row with itself, with its direction, and of the direction with itself."""
    at = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    kind = tl.load(kinds + at)
    small = tl.load(eps + kind)
    start = (tl.load(blocks + at) * s + row) * width
    pp = tl.zeros((ROWS,), tl.float64)
    pd = tl.zeros((ROWS,), tl.float64)
    dd = tl.zeros((ROWS,), tl.float64)
    if UNIT:
        for left in range(0, width, WIDTH):
            column = left + tl.arange(0, WIDTH)
            known = (row < s)[:, None] & (column < width)[None, :]
            place = start[:, None] + column[None, :]
            p = tl.load(table + place, known, 0).to(tl.float32)
            v = tl.load(squares + place, known, 1).to(tl.float32)
            d = tl.load(moments + place, known, 0).to(tl.float32) / (tl.sqrt(v) + small)
            pp += tl.sum(p * p, 1).to(tl.float64)
            pd += tl.sum(p * d, 1).to(tl.float64)
            dd += tl.sum(d * d, 1).to(tl.float64)
    kept = tl.full((ROWS,), 1, tl.float64)
    moved = tl.zeros((ROWS,), tl.float64)
    for i in range(0, steps):
        moved += tl.load(motion + kind * steps + i).to(tl.float64)
        if UNIT:
            square = kept * kept * pp - 2 * kept * moved * pd + moved * moved * dd
            norm = tl.where(square > 0, tl.sqrt(tl.where(square > 0, square, 1)), 1)
            kept /= norm
            moved /= norm
    for left in range(0, width, WIDTH):
        column = left + tl.arange(0, WIDTH)
        known = (row < s)[:, None] & (column < width)[None, :]
        place = start[:, None] + column[None, :]
        p = tl.load(table + place, known, 0).to(tl.float32)
        m = tl.load(moments + place, known, 0).to(tl.float32)
        v = tl.load(squares + place, known, 1).to(tl.float32)
        d = m / (tl.sqrt(v) + small)
        p = kept.to(tl.float32)[:, None] * p - moved.to(tl.float32)[:, None] * d
        tl.store(table + place, p.to(table.dtype.element_ty), known)
        m *= tl.load(first + kind)
        v *= tl.load(second + kind)
        tl.store(moments + place, m.to(moments.dtype.element_ty), known)
        tl.store(squares + place, v.to(squares.dtype.element_ty), known)
