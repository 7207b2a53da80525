"""The updates of `plain_update` in numba, for float32 on the CPU: gradient, Adam and norm of a block while in cache.

No kernel starts threads of numba's own: their work is divided among as many as torch has. How it is divided changes no
sum.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int64
from numba import njit
from torch import Tensor

from hsae_hub.ops.kernels.uses import AdamStep, Learned, Missed, Uses

_kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
_TILE = 512  # columns of a gradient that are added up together: they and those of x stay in the nearest cache
_STRIP = 16  # rows of a matrix of columns that are updated together: a line of the cache in x
_TINY = np.float32(1e-12)  # a row of zeros stays one


def square_norms(uses: Uses, unit: Float[Tensor, "n s width"] | None) -> Float[Tensor, " used"]:
    found = torch.empty(len(uses.blocks))
    rows = uses.x.new_empty(0, 1, 1) if unit is None else unit
    given = (_arrays(uses), _array(rows), _array(found))
    _in_parts(len(found), lambda low, high: _square_norms(*given, low, high))
    return found


def adam_blocks_(
    learned: Learned,
    uses: Uses,
    adam: AdamStep,
    *,
    unit: bool,
    only_used: bool,
) -> None:
    given = (*map(_array, learned), _arrays(uses), _numbers(adam), unit)
    if only_used:
        _in_parts(len(uses.blocks), lambda low, high: _adam_used(*given, low, high))
    else:
        _in_parts(len(learned.table), lambda low, high: _adam_all(*given, low, high))


def adam_columns_(
    learned: Learned,
    uses: Uses,
    adam: AdamStep,
) -> None:
    given = (*map(_array, learned), _arrays(uses), _numbers(adam))
    strips = -(-len(learned.table) // _STRIP)
    _in_parts(strips, lambda low, high: _adam_strips(*given, low, high))


def catch_up_(
    learned: Learned,
    blocks: Int64[Tensor, " blocks"],
    missed: Missed,
    *,
    unit: bool,
) -> None:
    given = (*map(_array, (*learned, blocks)), Missed(*map(_array, missed)), unit)
    _in_parts(len(blocks), lambda low, high: _catch_up(*given, low, high))


def _array(x: Tensor) -> Any:
    return x.detach().numpy()


def _arrays(uses: Uses) -> Uses:
    return Uses(*map(_array, uses))


def _numbers(adam: AdamStep) -> Any:
    rest = (1 - adam.beta1, 1 - adam.beta2)
    return tuple(np.float32(number) for number in (*adam, *rest))


def _in_parts(n: int, work: Callable[[int, int], None]) -> None:
    threads = torch.get_num_threads()
    if threads == 1 or n < threads:
        work(0, n)
        return
    ends = [n * i // (4 * threads) for i in range(4 * threads + 1)]  # parts are not equally hard
    for done in [_pool(threads).submit(work, *part) for part in pairwise(ends)]:
        done.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "update")


@no_type_check
@_kernel
def _square_norms(uses, unit, out, low, high):
    grad = np.empty((uses.values.shape[1], uses.x.shape[1]), np.float32)
    for u in range(low, high):
        if len(unit) == 0 and uses.starts[u + 1] - uses.starts[u] <= len(grad):
            out[u] = _square_of_few(uses, u)
            continue
        _add_up(grad, uses, u)
        if len(unit):
            _project(grad, unit[uses.blocks[u]])
        total = np.float32(0)
        for r in range(len(grad)):
            total += _dot(grad[r], grad[r])
        out[u] = total


@no_type_check
@_kernel
def _square_of_few(uses, u):
    """`‖Σ_p values[p] ⊗ x[p]‖² = Σ_pq (values[p] · values[q]) (x[p] · x[q])`: cheaper for no more pairs than rows."""
    total = np.float32(0)
    for p in range(uses.starts[u], uses.starts[u + 1]):
        x = uses.x[uses.tokens[p]]
        total += _dot(uses.values[p], uses.values[p]) * _dot(x, x)
        for q in range(uses.starts[u], p):
            both = _dot(uses.values[p], uses.values[q]) * _dot(x, uses.x[uses.tokens[q]])
            total += np.float32(2) * both
    return total


@no_type_check
@_kernel
def _adam_used(table, first, second, uses, adam, unit, low, high):
    grad = np.empty((uses.values.shape[1], uses.x.shape[1]), np.float32)
    for u in range(low, high):
        j = uses.blocks[u]
        _add_up(grad, uses, u)
        _adam_block(table[j], first[j], second[j], grad, adam, unit)


@no_type_check
@_kernel
def _adam_all(table, first, second, uses, adam, unit, low, high):
    grad = np.empty((uses.values.shape[1], uses.x.shape[1]), np.float32)
    u = np.searchsorted(uses.blocks, low)
    for j in range(low, high):
        if u < len(uses.blocks) and uses.blocks[u] == j:
            _add_up(grad, uses, u)
            u += 1
        else:
            grad[:] = 0
        _adam_block(table[j], first[j], second[j], grad, adam, unit)


@no_type_check
@_kernel
def _adam_strips(table, first, second, uses, adam, low, high):
    width, n = table.shape
    # the same columns are used in each strip; a row is longer, so that those of a column do not share a cache's set
    grad = np.zeros((_STRIP, n + _STRIP), np.float32)
    x = np.zeros((len(uses.x), _STRIP), np.float32)
    column = np.empty(_STRIP, np.float32)
    for strip in range(low, high):
        start = strip * _STRIP
        rows = min(_STRIP, width - start)
        x[:, :rows] = uses.x[:, start : start + rows]
        for u in range(len(uses.blocks)):
            column[:] = 0
            for p in range(uses.starts[u], uses.starts[u + 1]):
                value, t = uses.values[p, 0], uses.tokens[p]
                for r in range(_STRIP):
                    column[r] += value * x[t, r]
            for r in range(_STRIP):
                grad[r, uses.blocks[u]] = column[r]
        for r in range(rows):
            k = start + r
            _adam_row(table[k], first[k], second[k], grad[r, :n], adam)


@no_type_check
@_kernel
def _catch_up(table, first, second, blocks, missed, unit, low, high):
    for i in range(low, high):
        j, kind = blocks[i], missed.kinds[i]
        motion, eps = missed.motion[kind], missed.eps[kind]
        for r in range(table.shape[1]):
            p, m, v = table[j, r], first[j, r], second[j, r]
            kept, moved = np.float32(1), np.float32(0)
            if unit:
                kept, moved = _renormalised(p, m, v, motion, eps)
            else:
                for size in motion:
                    moved += size
            _move(p, m, v, kept, moved, eps, missed.first[kind], missed.second[kind])


@no_type_check
@_kernel
def _renormalised(p, m, v, motion, eps):
    """What multiplies a row and its direction after steps of which each is followed by a division by the norm."""
    pp = pd = dd = np.float32(0)
    for c in range(len(p)):
        d = m[c] / (np.sqrt(v[c]) + eps)
        pp += p[c] * p[c]
        pd += p[c] * d
        dd += d * d
    kept, moved = 1.0, 0.0
    for size in motion:
        moved += size
        square = kept * kept * pp - 2 * kept * moved * pd + moved * moved * dd
        norm = np.sqrt(square) if square > 0 else 1.0
        kept /= norm
        moved /= norm
    return np.float32(kept), np.float32(moved)


@no_type_check
@_kernel
def _move(p, m, v, kept, moved, eps, first, second):
    for c in range(len(p)):
        p[c] = kept * p[c] - moved * m[c] / (np.sqrt(v[c]) + eps)
        m[c] *= first
        v[c] *= second


@no_type_check
@_kernel
def _adam_block(table, first, second, grad, adam, unit):
    if unit:
        _project(grad, table)
    for r in range(len(table)):
        _adam_row(table[r], first[r], second[r], grad[r], adam)
        if unit:
            norm = max(np.sqrt(_dot(table[r], table[r])), _TINY)
            for c in range(table.shape[1]):
                table[r, c] /= norm


@no_type_check
@_kernel
def _adam_row(p, m, v, grad, adam):
    size, eps, beta1, beta2, scale, rest1, rest2 = adam
    for c in range(len(p)):
        g = scale * grad[c]
        m_new = beta1 * m[c] + rest1 * g
        v_new = beta2 * v[c] + rest2 * g * g
        m[c] = m_new
        v[c] = v_new
        p[c] -= size * m_new / (np.sqrt(v_new) + eps)


@no_type_check
@_kernel
def _add_up(grad, uses, u):
    """The gradient of a used block, four pairs at a time; the first time up to three of them count for nothing."""
    s, width = grad.shape
    start, end = uses.starts[u], uses.starts[u + 1]
    odd = (end - start - 1) % 4 + 1
    a = np.zeros((4, s), np.float32)
    a[:odd] = uses.values[start : start + odd]
    for left in range(0, width, _TILE):
        here = slice(left, min(left + _TILE, width))
        x0 = uses.x[uses.tokens[start], here]
        x1 = uses.x[uses.tokens[start + min(1, odd - 1)], here]
        x2 = uses.x[uses.tokens[start + min(2, odd - 1)], here]
        x3 = uses.x[uses.tokens[start + min(3, odd - 1)], here]
        for r in range(s):
            _set_four(grad[r, here], a[:, r], x0, x1, x2, x3)
        for p in range(start + odd, end, 4):
            x0 = uses.x[uses.tokens[p], here]
            x1 = uses.x[uses.tokens[p + 1], here]
            x2 = uses.x[uses.tokens[p + 2], here]
            x3 = uses.x[uses.tokens[p + 3], here]
            for r in range(s):
                _add_four(grad[r, here], uses.values[p : p + 4, r], x0, x1, x2, x3)


@no_type_check
@_kernel
def _set_four(out, a, x0, x1, x2, x3):
    a0, a1, a2, a3 = a[0], a[1], a[2], a[3]
    for c in range(len(out)):
        out[c] = (a0 * x0[c] + a1 * x1[c]) + (a2 * x2[c] + a3 * x3[c])


@no_type_check
@_kernel
def _add_four(out, a, x0, x1, x2, x3):
    a0, a1, a2, a3 = a[0], a[1], a[2], a[3]
    for c in range(len(out)):
        out[c] += (a0 * x0[c] + a1 * x1[c]) + (a2 * x2[c] + a3 * x3[c])


@no_type_check
@_kernel
def _add(out, a, x):
    for c in range(len(out)):
        out[c] += a * x[c]


@no_type_check
@_kernel
def _project(grad, unit):
    for r in range(len(grad)):
        _add(grad[r], -_dot(grad[r], unit[r]), unit[r])


@no_type_check
@_kernel
def _dot(a, b):
    total = np.float32(0)
    for c in range(len(a)):
        total += a[c] * b[c]
    return total
