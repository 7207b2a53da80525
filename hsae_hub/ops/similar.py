"""Pairs of rows that point the same way."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.ops.products import multiply

_CHUNK = 1024  # rows compared with all others at once; the whole matrix of cosines is never held


@torch.no_grad()
def similar_pairs(
    unit: Float[Tensor, "rows width"], above: float
) -> tuple[Int64[Tensor, " pairs"], Int64[Tensor, " pairs"]]:
    """Disjoint pairs of unit rows with a cosine larger than `above`, first and second with first < second.

    Greedy from the highest cosine on: each row is in at most one pair. Equal cosines are taken in the order of rows.
    """
    cosines, firsts, seconds = [], [], []
    for start in range(0, len(unit), _CHUNK):
        chunk = multiply(unit[start : start + _CHUNK], unit[start:].T, unit.dtype)
        close = (chunk.triu(1) > above).nonzero()
        cosines.append(chunk[close[:, 0], close[:, 1]])
        firsts.append(close[:, 0] + start)
        seconds.append(close[:, 1] + start)
    order = torch.cat(cosines).argsort(descending=True, stable=True)
    pairs = torch.stack([torch.cat(firsts), torch.cat(seconds)])[:, order]
    taken: set[int] = set()
    kept: list[int] = []
    for place, (i, j) in enumerate(pairs.T.tolist()):
        if i not in taken and j not in taken:
            taken |= {i, j}
            kept.append(place)
    chosen = pairs[:, kept]
    return chosen[0], chosen[1]
