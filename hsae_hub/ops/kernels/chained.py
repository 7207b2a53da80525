"""Products of a few tokens with two tables, one after the other, compiled."""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np

from hsae_hub.ops.kernels.compiling import compiled


@compiled(reorder=True)
@no_type_check
def dots(x: Any, outer: Any, outer_index: Any, inner: Any, inner_index: Any, out: Any) -> None:
    """`out[t, i, c] = inner[inner_index[t, i], c] · (outer[outer_index[t, i]] x[t])`.

    Rows of the outer table are read two far apart at a time: so memory is read fastest.
    """
    s = outer.shape[1]
    half = (s + 1) // 2
    between = np.empty(s, np.float32)
    for t in range(out.shape[0]):
        token = x[t]
        for i in range(out.shape[1]):
            block = outer[outer_index[t, i]]
            for one in range(half):
                other = min(one + half, s - 1)
                a = block[one]
                b = block[other]
                total_a = np.float32(0)
                total_b = np.float32(0)
                for j in range(len(token)):
                    total_a += token[j] * a[j]
                    total_b += token[j] * b[j]
                between[one] = total_a
                between[other] = total_b
            rows = inner[inner_index[t, i]]
            for c in range(out.shape[2]):
                total = np.float32(0)
                for r in range(s):
                    total += rows[c, r] * between[r]
                out[t, i, c] = total


@compiled(reorder=True)
@no_type_check
def sums(values: Any, inner: Any, inner_index: Any, outer: Any, outer_index: Any, out: Any) -> None:
    """`out[t] = Σ_i,r values[t, i] · inner[inner_index[t, i], r] · outer[outer_index[t, i], r]`; 0 is left out."""
    s = outer.shape[1]
    half = (s + 1) // 2
    for t in range(out.shape[0]):
        total = out[t]
        total[:] = 0
        for i in range(values.shape[1]):
            if values[t, i] == 0:
                continue
            row = inner[inner_index[t, i]]
            block = outer[outer_index[t, i]]
            for one in range(half):
                other = one + half
                v = values[t, i] * row[one]
                w = values[t, i] * row[other] if other < s else np.float32(0)
                a = block[one]
                b = block[min(other, s - 1)]
                for j in range(len(total)):
                    total[j] = total[j] + v * a[j] + w * b[j]
