"""BatchTopK (Bussmann et al. 2024, arXiv 2412.06410): the largest acts of a whole batch, wherever they fall."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag


class BatchActs(NamedTuple):
    """The kept acts of a batch in one list, ordered by token and then by latent."""

    values: Float[Tensor, " kept"]
    tokens: Int64[Tensor, " kept"]
    latents: Int64[Tensor, " kept"]


def batch_top_k(acts: Float[Tensor, "batch d_sae"], k: int) -> BatchActs:
    """The `k · batch` largest acts of the whole batch."""
    batch, d_sae = acts.shape
    flat = acts.flatten()
    kept = flat.topk(k * batch, sorted=False).indices.sort().values
    return BatchActs(flat[kept], kept // d_sae, kept % d_sae)


def rows_by_bag(
    values: Float[Tensor, " kept"],
    rows: Int64[Tensor, " kept"],
    bags: Int64[Tensor, " kept"],
    table: Float[Tensor, "rows width"],
    n_bags: int,
) -> Float[Tensor, "n_bags width"]:
    """`out[b] = Σ values[i] · table[rows[i]]` over all `i` with `bags[i] = b`; `bags` ascends, a bag may be empty."""
    starts = torch.searchsorted(bags, torch.arange(n_bags, device=bags.device))
    return embedding_bag(rows, table, starts, per_sample_weights=values, mode="sum")


@torch.no_grad()
def track_threshold_(
    threshold: Float[Tensor, " d_sae"], kept: Float[Tensor, " kept"], rate: float
) -> None:
    """Moves the threshold, in place, by `rate` of the way to the smallest positive act, if there is one."""
    smallest = torch.where(kept > 0, kept, torch.inf).amin()
    threshold.lerp_(torch.where(smallest.isfinite(), smallest, threshold), rate)
