"""Products of a token with the columns of a matrix that are among the largest or above a threshold, compiled.

A column is `scale · (65536 · high + low)` with whole numbers of 8 and 16 bits: about what float32 holds of it. The
high parts of all columns are read; what they leave out is bounded by its norm, and the low parts are read of those
columns alone that may be among the wanted.
"""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np

from hsae_hub.ops.kernels.compiling import compiled

_LOW = 65536
_LARGEST = 127 * _LOW + _LOW // 2 - 1
_ROUNDING = 2.0**-17  # of a float32 sum of a few hundred addends a lane, as a share of both norms
_TIE = (
    2.0**-18
)  # by which products have to differ so that they do under anyone's rounding, as the same share
_STRIP = 64  # columns that are turned, or looked at, together


@compiled(reorder=False)
@no_type_check
def divide(W: Any, high: Any, low: Any, scale: Any, norm: Any, margin: Any) -> None:
    """Columns as rows; their norms, and how far a product with the high part may be off a token of norm 1."""
    n = W.shape[1]
    largest = np.empty(_STRIP, np.float32)
    squares = np.empty(_STRIP)
    rests = np.empty(_STRIP)
    for start in range(0, n, _STRIP):
        stop = min(start + _STRIP, n)
        largest[:] = 0
        squares[:] = 0
        rests[:] = 0
        for i in range(len(W)):
            for j in range(start, stop):
                largest[j - start] = max(largest[j - start], abs(W[i, j]))
        for j in range(start, stop):
            scale[j] = max(largest[j - start] / np.float32(_LARGEST), np.float32(1e-37))
        for i in range(len(W)):
            for j in range(start, stop):
                w = np.float64(W[i, j])
                whole = np.int64(np.rint(w / np.float64(scale[j])))
                whole = min(max(whole, -_LARGEST), _LARGEST)
                top = (whole + _LOW // 2) >> 16
                high[j, i] = top
                low[j, i] = whole - top * _LOW
                left = w - np.float64(scale[j]) * (top * _LOW)
                squares[j - start] += w * w
                rests[j - start] += left * left
        for j in range(start, stop):
            length = np.sqrt(squares[j - start])
            norm[j] = length
            margin[j] = (np.sqrt(rests[j - start]) + _ROUNDING * length) * (1 + 1e-6)


@compiled(reorder=True)
@no_type_check
def propose(x: Any, high: Any, scale: Any, out: Any, first: int, last: int) -> None:
    """Products with the high parts of columns `first … last`, two far apart at a time: so memory is read fastest."""
    half = (last - first + 1) // 2
    for one in range(first, first + half):
        other = min(one + half, last - 1)
        a = high[one]
        b = high[other]
        for token in range(len(x)):
            values = x[token]
            total_a = np.float32(0)
            total_b = np.float32(0)
            for i in range(len(values)):
                total_a += values[i] * np.float32(a[i])
                total_b += values[i] * np.float32(b[i])
            out[token, one] = total_a * (scale[one] * np.float32(_LOW))
            out[token, other] = total_b * (scale[other] * np.float32(_LOW))


@compiled(reorder=True)
@no_type_check
def certify_largest(
    x: Any,
    proposed: Any,
    bias: Any,
    low: Any,
    scale: Any,
    norm: Any,
    margin: Any,
    values: Any,
    places: Any,
) -> bool:
    """The k largest of one token; False where a tie, or a number that is not finite, leaves open which they are."""
    n, k = len(proposed), len(places)
    size = _norm(x)
    if not size < np.inf:
        return False
    sure = np.full(k, np.float32(-np.inf))
    least = _bounds(proposed, bias, margin, -size)
    for start in range(0, n, _STRIP):
        part = least[start : start + _STRIP]
        if _any_reaches(part, sure[k - 1]):
            for bound in part:
                if bound > sure[k - 1]:
                    at = k - 1
                    while at > 0 and sure[at - 1] < bound:
                        sure[at] = sure[at - 1]
                        at -= 1
                    sure[at] = bound
    if not sure[k - 1] > -np.inf:
        return False
    best = np.full(k + 1, -np.inf)
    where = np.zeros(k + 1, np.int64)
    most = _bounds(proposed, bias, margin, size)
    for start in range(0, n, _STRIP):
        part = most[start : start + _STRIP]
        if not _any_reaches(part, sure[k - 1]):
            continue
        for j in range(start, start + len(part)):
            if most[j] < sure[k - 1]:
                continue
            total = _whole(x, proposed, bias, low, scale, j)
            if not abs(total) < np.inf:
                return False
            if total > best[k]:
                at = k
                while at > 0 and best[at - 1] < total:
                    best[at] = best[at - 1]
                    where[at] = where[at - 1]
                    at -= 1
                best[at] = total
                where[at] = j
    tie = max(_tie(size, norm, bias, where[k - 1]), _tie(size, norm, bias, where[k]))
    if not best[k - 1] - best[k] > tie:
        return False
    for i in range(k):
        values[i] = best[i]
        places[i] = where[i]
    return True


@compiled(reorder=True)
@no_type_check
def certify_above(
    x: Any,
    proposed: Any,
    bias: Any,
    low: Any,
    scale: Any,
    norm: Any,
    margin: Any,
    threshold: Any,
    values: Any,
    places: Any,
) -> int:
    """Those of one token above a threshold, and how many they are; an empty threshold is 0.

    -1 where a tie, or a number that is not finite, leaves open which they are, or where there is no room for them.
    """
    size = _norm(x)
    if not size < np.inf:
        return -1
    found = 0
    over = _bounds(proposed, bias, margin, size)
    if len(threshold):
        for j in range(len(over)):
            over[j] -= threshold[j]
    for start in range(0, len(over), _STRIP):
        part = over[start : start + _STRIP]
        if not _any_reaches(part, np.float32(0)):
            continue
        for j in range(start, start + len(part)):
            if over[j] < 0:
                continue
            total = _whole(x, proposed, bias, low, scale, j)
            limit = threshold[j] if len(threshold) else np.float32(0)
            if not (abs(total - limit) > _tie(size, norm, bias, j) and abs(total) < np.inf):
                return -1
            if total > limit:
                if found == len(places):
                    return -1
                values[found] = total
                places[found] = j
                found += 1
    return found


@compiled(reorder=True)
@no_type_check
def _norm(x: Any) -> Any:
    total = np.float64(0)
    for i in range(len(x)):
        total += np.float64(x[i]) * np.float64(x[i])
    return np.float32(np.sqrt(total))


@compiled(reorder=True)
@no_type_check
def _bounds(proposed: Any, bias: Any, margin: Any, size: Any) -> Any:
    """What products are at least, or at most, by the sign of a token's norm."""
    bounds = np.empty_like(proposed)
    for j in range(len(bounds)):
        bounds[j] = proposed[j] + size * margin[j]
    if len(bias):
        share = np.float32(_ROUNDING) if size > 0 else np.float32(-_ROUNDING)
        for j in range(len(bounds)):
            bounds[j] += bias[j] + share * abs(bias[j])
    return bounds


@compiled(reorder=True)
@no_type_check
def _any_reaches(bounds: Any, limit: Any) -> bool:
    """Also where one is not a number."""
    reached = False
    for j in range(len(bounds)):
        reached |= not bounds[j] < limit
    return reached


@compiled(reorder=True)
@no_type_check
def _tie(size: Any, norm: Any, bias: Any, j: int) -> Any:
    return _TIE * (size * norm[j] + (abs(bias[j]) if len(bias) else np.float32(0)))


@compiled(reorder=True)
@no_type_check
def _whole(x: Any, proposed: Any, bias: Any, low: Any, scale: Any, j: int) -> float:
    row = low[j]
    rest = np.float32(0)
    for i in range(len(x)):
        rest += x[i] * np.float32(row[i])
    total = np.float64(proposed[j]) + rest * np.float64(scale[j])
    return total + bias[j] if len(bias) else total
