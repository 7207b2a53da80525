"""How many tokens go where, as numbers that tensors can be split by."""

from __future__ import annotations

from jaxtyping import Int64
from torch import Tensor


def count_parts(part: Int64[Tensor, " tokens"], n_parts: int) -> list[int]:
    """How many tokens are in each part; on the meta device, where nobody knows, as evenly as can be."""
    if part.is_meta:
        few, more = divmod(len(part), n_parts)
        return [few + (i < more) for i in range(n_parts)]
    counts: list[int] = part.bincount(minlength=n_parts).tolist()
    return counts
