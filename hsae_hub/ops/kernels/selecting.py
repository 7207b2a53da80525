"""The k largest of a row by way of the largest of groups, compiled.

The k largest lie in the k groups with the largest maxima, and none is below the least of these.
"""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np

from hsae_hub.ops.kernels.compiling import compiled
from hsae_hub.ops.kernels.plain import GROUP


@compiled(reorder=False)
@no_type_check
def largest(pre: Any, out: Any, found: Any, first: int, last: int) -> None:
    """Places of the `k` largest of rows `first … last`; a row with a NaN is left to others, which `found` tells."""
    n, k = pre.shape[1], out.shape[1]
    groups = n // GROUP
    maxima = np.empty(groups, pre.dtype)
    kept = np.empty(k, pre.dtype)
    places = np.empty(k, np.int64)
    for token in range(first, last):
        row = pre[token]
        for j in range(groups):
            maxima[j] = row[j]
        for start in range(groups, groups * GROUP, groups):
            part = row[start : start + groups]
            for j in range(groups):
                v = part[j]
                maxima[j] = v if (v > maxima[j]) | (v != v) else maxima[j]
        nan = False
        for j in range(groups):
            nan |= maxima[j] != maxima[j]
        for j in range(groups * GROUP, n):
            nan |= row[j] != row[j]
        found[token] = not nan
        if nan:
            continue
        # the k-th largest maximum
        size = 0
        for j in range(groups):
            size = _insert(kept, places, size, maxima[j], j)
        least = kept[size - 1]
        size = 0
        for j in range(groups):
            if maxima[j] >= least:
                for at in range(j, groups * GROUP, groups):
                    if row[at] >= least:
                        size = _insert(kept, places, size, row[at], at)
        for at in range(groups * GROUP, n):
            if row[at] >= least:
                size = _insert(kept, places, size, row[at], at)
        for i in range(k):
            out[token, i] = places[i]


@compiled(reorder=False)
@no_type_check
def _insert(kept: Any, places: Any, size: int, value: Any, place: int) -> int:
    """Puts a value where it belongs among the largest so far, which descend; returns how many there are then."""
    if size == len(kept):
        if value <= kept[size - 1]:
            return size
        size -= 1
    at = size
    while at > 0 and kept[at - 1] < value:
        kept[at] = kept[at - 1]
        places[at] = places[at - 1]
        at -= 1
    kept[at] = value
    places[at] = place
    return size + 1
