"""The k largest products of a token with the columns of a matrix, proposed by 8 of their 24 bits, compiled.

A column is `scale · (65536 · high + low)` with whole numbers of 8 and 16 bits: about what float32 holds of it. The
high parts of all columns are read; what they leave out is bounded by its norm, and the low parts are read of those
columns alone that may be among the k largest.
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
)  # by which two products have to differ so that they do under anyone's rounding, as the same share
_STRIP = 64  # columns that are turned together


@compiled(reorder=False)
@no_type_check
def divide(
    W: Any, high: Any, low: Any, scale: Any, norm: Any, rest: Any, first: int, last: int
) -> None:
    """Columns `first … last` of a matrix as rows; their norms, and those of what their high parts leave out."""
    largest = np.empty(_STRIP, np.float32)
    for start in range(first, last, _STRIP):
        stop = min(start + _STRIP, last)
        largest[:] = 0
        norm[start:stop] = 0
        rest[start:stop] = 0
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
                norm[j] += w * w
                rest[j] += left * left
        for j in range(start, stop):
            norm[j] = np.sqrt(norm[j])
            rest[j] = np.sqrt(rest[j])


@compiled(reorder=True)
@no_type_check
def propose(x: Any, high: Any, scale: Any, out: Any, first: int, last: int) -> None:
    """Products with the high parts of columns `first … last`."""
    for j in range(first, last):
        row = high[j]
        for token in range(len(x)):
            values = x[token]
            total = np.float32(0)
            for i in range(len(row)):
                total += values[i] * np.float32(row[i])
            out[token, j] = total * (scale[j] * np.float32(_LOW))


@compiled(reorder=True)
@no_type_check
def certify(
    x: Any,
    proposed: Any,
    bias: Any,
    high: Any,
    low: Any,
    scale: Any,
    norm: Any,
    rest: Any,
    values: Any,
    places: Any,
) -> bool:
    """The k largest of one token; False where a tie, or a number that is not finite, leaves open which they are.

    `proposed` gets the bias; `bias` may be empty.
    """
    n, k = len(proposed), len(places)
    size = np.float64(0)
    for i in range(len(x)):
        size += np.float64(x[i]) * np.float64(x[i])
    size = np.sqrt(size)
    if not size < np.inf:
        return False
    sure = np.full(k, -np.inf)
    for j in range(n):
        if len(bias):
            proposed[j] += bias[j]
        least = proposed[j] - size * (rest[j] + _ROUNDING * norm[j])
        if least > sure[k - 1]:
            at = k - 1
            while at > 0 and sure[at - 1] < least:
                sure[at] = sure[at - 1]
                at -= 1
            sure[at] = least
    if not sure[k - 1] > -np.inf:
        return False
    best = np.full(k + 1, -np.inf)
    where = np.zeros(k + 1, np.int64)
    for j in range(n):
        most = proposed[j] + size * (rest[j] + _ROUNDING * norm[j])
        if most < sure[k - 1]:
            continue
        if not most < np.inf:
            return False
        total = np.float64(0)
        for i in range(len(x)):
            total += x[i] * (np.float32(high[j, i]) * np.float32(_LOW) + np.float32(low[j, i]))
        total *= scale[j]
        if len(bias):
            total += bias[j]
        if total > best[k]:
            at = k
            while at > 0 and best[at - 1] < total:
                best[at] = best[at - 1]
                where[at] = where[at - 1]
                at -= 1
            best[at] = total
            where[at] = j
    wide = size * max(norm[where[k - 1]], norm[where[k]])
    if not best[k - 1] - best[k] > _TIE * wide:
        return False
    for i in range(k):
        values[i] = best[i]
        places[i] = where[i]
    return True
