"""The k largest of each row in one pass over it, by a Triton kernel; `cuda.py` launches it.

The k largest lie in the k groups with the largest maxima, so that only those groups' entries are ordered.
"""

from typing import no_type_check

import triton
import triton.language as tl

LOWEST = tl.constexpr(-(2**31))
"""Below the key of every number."""
LOW_BITS = tl.constexpr(2**32 - 1)


@triton.jit
@no_type_check
def ordered(value):
    """Whole numbers in the order of the values, all NaN above infinity."""
    value = value.to(tl.float32)
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(value != value, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))


@triton.jit
@no_type_check
def top_k_kernel(
    pre,
    out,
    n,
    k,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    MEMBERS: tl.constexpr,
):
    """One row; entry i is of group `i % GROUPS`. K and MEMBERS are k and a group's size, up to a power of two."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, GROUPS)
    best = tl.full((GROUPS,), LOWEST, tl.int32)
    for start in range(0, n, GROUPS):
        at = start + group
        key = ordered(tl.load(pre + row * n + at, at < n, 0))
        best = tl.maximum(best, tl.where(at < n, key, LOWEST))
    groups = tl.topk((best.to(tl.int64) << 32) | group, K) & LOW_BITS
    at = groups[:, None] + GROUPS * tl.arange(0, MEMBERS)[None, :]
    key = tl.where(at < n, ordered(tl.load(pre + row * n + at, at < n, 0)), LOWEST)
    packed = (key.to(tl.int64) << 32) | (at ^ LOW_BITS)  # of equal ones the first comes first
    best_of_all = tl.topk(tl.reshape(packed, (K * MEMBERS,)), K)
    place = tl.arange(0, K)
    tl.store(out + row * k + place, (best_of_all & LOW_BITS) ^ LOW_BITS, place < k)
