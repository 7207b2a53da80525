"""Loops over pairs of tokens and blocks, compiled."""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np

from hsae_hub.ops.kernels.compiling import compiled


@compiled(reorder=False)
@no_type_check
def group(flat: Any, n: int) -> tuple[Any, Any, Any, Any]:
    """Pairs in runs of one block, runs and the pairs of each in the order in which they come.

    Returns the pairs; the block of each run; where runs start and the last one ends; each block's run or -1.
    """
    runs = np.full(n, -1, np.int64)
    blocks = np.empty(min(n, len(flat)), np.int64)
    starts = np.zeros(len(blocks) + 1, np.int64)
    used = 0
    for block in flat:
        if runs[block] < 0:
            runs[block] = used
            blocks[used] = block
            used += 1
        starts[runs[block] + 1] += 1
    for run in range(used):
        starts[run + 1] += starts[run]
    free = starts[:used].copy()
    order = np.empty(len(flat), np.int64)
    for pair in range(len(flat)):
        run = runs[flat[pair]]
        order[free[run]] = pair
        free[run] += 1
    return order, blocks[:used].copy(), starts[: used + 1].copy(), runs


@compiled(reorder=False)
@no_type_check
def group_few(flat: Any) -> tuple[Any, Any, Any]:
    """The same of a few pairs, in no time that depends on how many blocks there are."""
    runs = np.empty(len(flat), np.int64)
    blocks = np.empty(len(flat), np.int64)
    starts = np.zeros(len(flat) + 1, np.int64)
    used = 0
    for pair in range(len(flat)):
        run = 0
        while run < used and blocks[run] != flat[pair]:
            run += 1
        if run == used:
            blocks[used] = flat[pair]
            used += 1
        runs[pair] = run
        starts[run + 1] += 1
    for run in range(used):
        starts[run + 1] += starts[run]
    order = np.empty(len(flat), np.int64)
    at = 0
    for run in range(used):
        for pair in range(len(flat)):
            if runs[pair] == run:
                order[at] = pair
                at += 1
    return order, blocks[:used].copy(), starts[: used + 1].copy()


@compiled(reorder=True)
@no_type_check
def _dots_of_one(x: Any, block: Any, out: Any) -> None:
    s, width = block.shape
    for r in range(0, s, 8):
        r1 = min(r + 1, s - 1)
        r2 = min(r + 2, s - 1)
        r3 = min(r + 3, s - 1)
        r4 = min(r + 4, s - 1)
        r5 = min(r + 5, s - 1)
        r6 = min(r + 6, s - 1)
        r7 = min(r + 7, s - 1)
        t0 = block[r]
        t1 = block[r1]
        t2 = block[r2]
        t3 = block[r3]
        t4 = block[r4]
        t5 = block[r5]
        t6 = block[r6]
        t7 = block[r7]
        o0 = o1 = o2 = o3 = o4 = o5 = o6 = o7 = x.dtype.type(0)
        for j in range(width):
            o0 += x[j] * t0[j]
            o1 += x[j] * t1[j]
            o2 += x[j] * t2[j]
            o3 += x[j] * t3[j]
            o4 += x[j] * t4[j]
            o5 += x[j] * t5[j]
            o6 += x[j] * t6[j]
            o7 += x[j] * t7[j]
        out[r] = o0
        out[r1] = o1
        out[r2] = o2
        out[r3] = o3
        out[r4] = o4
        out[r5] = o5
        out[r6] = o6
        out[r7] = o7


@compiled(reorder=True)
@no_type_check
def dots(
    x: Any,
    table: Any,
    out: Any,
    q: int,
    order: Any,
    blocks: Any,
    starts: Any,
    first: int,
    last: int,
) -> None:
    """`out[pair, r]`, two tokens and four rows at a time; of a token alone eight rows.

    Where there are fewer, the last one is taken again: eight sums at a time make each have the same order, whoever else
    is there.
    """
    s, width = table.shape[1], table.shape[2]
    for run in range(first, last):
        block = table[blocks[run]]
        end = starts[run + 1]
        twos = starts[run] + (end - starts[run]) // 2 * 2
        for place in range(starts[run], twos, 2):
            a = order[place]
            b = order[place + 1]
            xa = x[a // q]
            xb = x[b // q]
            for r in range(0, s, 4):
                r1 = min(r + 1, s - 1)
                r2 = min(r + 2, s - 1)
                r3 = min(r + 3, s - 1)
                t0 = block[r]
                t1 = block[r1]
                t2 = block[r2]
                t3 = block[r3]
                a0 = a1 = a2 = a3 = x.dtype.type(0)
                b0 = b1 = b2 = b3 = x.dtype.type(0)
                for j in range(width):
                    a0 += xa[j] * t0[j]
                    a1 += xa[j] * t1[j]
                    a2 += xa[j] * t2[j]
                    a3 += xa[j] * t3[j]
                    b0 += xb[j] * t0[j]
                    b1 += xb[j] * t1[j]
                    b2 += xb[j] * t2[j]
                    b3 += xb[j] * t3[j]
                out[a, r] = a0
                out[a, r1] = a1
                out[a, r2] = a2
                out[a, r3] = a3
                out[b, r] = b0
                out[b, r1] = b1
                out[b, r2] = b2
                out[b, r3] = b3
        if twos < end:
            a = order[twos]
            _dots_of_one(x[a // q], block, out[a])


@compiled(reorder=True)
@no_type_check
def row_dots(
    x: Any,
    table: Any,
    tokens: Any,
    out: Any,
    order: Any,
    blocks: Any,
    starts: Any,
    first: int,
    last: int,
) -> None:
    """`out[pair]` of blocks of one row, four tokens at a time, the last one again where there are fewer."""
    width = table.shape[1]
    for run in range(first, last):
        row = table[blocks[run]]
        end = starts[run + 1]
        for place in range(starts[run], end, 4):
            p0 = order[place]
            p1 = order[min(place + 1, end - 1)]
            p2 = order[min(place + 2, end - 1)]
            p3 = order[min(place + 3, end - 1)]
            x0 = x[tokens[p0]]
            x1 = x[tokens[p1]]
            x2 = x[tokens[p2]]
            x3 = x[tokens[p3]]
            a0 = a1 = a2 = a3 = x.dtype.type(0)
            for j in range(width):
                a0 += x0[j] * row[j]
                a1 += x1[j] * row[j]
                a2 += x2[j] * row[j]
                a3 += x3[j] * row[j]
            out[p0] = a0
            out[p1] = a1
            out[p2] = a2
            out[p3] = a3


@compiled(reorder=False)
@no_type_check
def short_dots(x: Any, table: Any, index: Any, out: Any, first: int, last: int) -> None:
    """`out[token, i, r]` of tokens `first … last`, for rows too short to be worth a vector's sum."""
    s, width = table.shape[1], table.shape[2]
    for token in range(first, last):
        values = x[token]
        for i in range(index.shape[1]):
            block = table[index[token, i]]
            for r in range(s):
                row = block[r]
                total = x.dtype.type(0)
                for j in range(width):
                    total += values[j] * row[j]
                out[token, i, r] = total


@compiled(reorder=False)
@no_type_check
def row_sums(
    values: Any, rows: Any, starts: Any, table: Any, out: Any, first: int, last: int
) -> None:
    """Token by token, four rows at a time."""
    width = table.shape[1]
    for token in range(first, last):
        total = out[token]
        total[:] = 0
        start = starts[token]
        end = starts[token + 1]
        whole = start + (end - start) // 4 * 4
        for i in range(start, whole, 4):
            v0 = values[i]
            v1 = values[i + 1]
            v2 = values[i + 2]
            v3 = values[i + 3]
            t0 = table[rows[i]]
            t1 = table[rows[i + 1]]
            t2 = table[rows[i + 2]]
            t3 = table[rows[i + 3]]
            for j in range(width):
                total[j] = total[j] + v0 * t0[j] + v1 * t1[j] + v2 * t2[j] + v3 * t3[j]
        for i in range(whole, end):
            v0 = values[i]
            t0 = table[rows[i]]
            for j in range(width):
                total[j] += v0 * t0[j]


@compiled(reorder=False)
@no_type_check
def sums(
    values: Any,
    table: Any,
    out: Any,
    q: int,
    order: Any,
    blocks: Any,
    starts: Any,
    first: int,
    last: int,
) -> None:
    """Columns `first … last` of all tokens, block by block, four rows at a time."""
    s, width = table.shape[1], last - first
    whole = s // 4 * 4
    out[:, first:last] = 0
    for run in range(len(blocks)):
        block = table[blocks[run]]
        for place in range(starts[run], starts[run + 1]):
            pair = order[place]
            total = out[pair // q, first:last]
            for r in range(0, whole, 4):
                v0 = values[pair, r]
                v1 = values[pair, r + 1]
                v2 = values[pair, r + 2]
                v3 = values[pair, r + 3]
                t0 = block[r, first:last]
                t1 = block[r + 1, first:last]
                t2 = block[r + 2, first:last]
                t3 = block[r + 3, first:last]
                for j in range(width):
                    total[j] = total[j] + v0 * t0[j] + v1 * t1[j] + v2 * t2[j] + v3 * t3[j]
            for r in range(whole, s):
                v0 = values[pair, r]
                t0 = block[r, first:last]
                for j in range(width):
                    total[j] += v0 * t0[j]


_STRIP = 512  # columns of a block that stay in a core's first cache with those of four tokens


@compiled(reorder=False)
@no_type_check
def gradients(
    x: Any,
    tokens: Any,
    values: Any,
    out: Any,
    order: Any,
    starts: Any,
    runs: Any,
    first: int,
    last: int,
) -> None:
    """Blocks `first … last`, four tokens at a time."""
    s, width = out.shape[1], out.shape[2]
    for number in range(first, last):
        block = out[number]
        block[:] = 0
        run = runs[number]
        if run < 0:
            continue
        start = starts[run]
        end = starts[run + 1]
        whole = start + (end - start) // 4 * 4
        for left in range(0, width, _STRIP):
            right = min(left + _STRIP, width)
            for place in range(start, whole, 4):
                p0 = order[place]
                p1 = order[place + 1]
                p2 = order[place + 2]
                p3 = order[place + 3]
                x0 = x[tokens[p0], left:right]
                x1 = x[tokens[p1], left:right]
                x2 = x[tokens[p2], left:right]
                x3 = x[tokens[p3], left:right]
                for r in range(s):
                    row = block[r, left:right]
                    v0 = values[p0, r]
                    v1 = values[p1, r]
                    v2 = values[p2, r]
                    v3 = values[p3, r]
                    for j in range(right - left):
                        row[j] = row[j] + v0 * x0[j] + v1 * x1[j] + v2 * x2[j] + v3 * x3[j]
            for place in range(whole, end):
                p0 = order[place]
                x0 = x[tokens[p0], left:right]
                for r in range(s):
                    row = block[r, left:right]
                    v0 = values[p0, r]
                    for j in range(right - left):
                        row[j] += v0 * x0[j]
