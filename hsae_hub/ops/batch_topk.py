"""BatchTopK (Bussmann et al. 2024, arXiv 2412.06410): the largest acts of a whole batch, wherever they fall.

The batch is that of all processes: each keeps those of its own rows that are among the largest of all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

from hsae_hub.ops import collective


class BatchActs(NamedTuple):
    """The kept acts of a batch in one list, ordered by token and then by latent."""

    values: Float[Tensor, " kept"]
    tokens: Int64[Tensor, " kept"]
    latents: Int64[Tensor, " kept"]


def batch_top_k(acts: Float[Tensor, "batch d_sae"], k: int) -> BatchActs:
    """The `k · batch` largest acts of the whole batch."""
    batch, d_sae = acts.shape
    flat = acts.flatten()
    wanted = k * collective.total_count(batch)
    found = flat.detach().topk(min(wanted, len(flat)), sorted=False)
    kept = found.indices
    if not collective.alone():
        kept = kept[_among_largest(found.values, wanted)]
    kept = kept.sort().values
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
    none = kept.new_tensor([torch.inf])
    smallest = collective.least(torch.cat([torch.where(kept > 0, kept, torch.inf), none]).amin())
    threshold.lerp_(torch.where(smallest.isfinite(), smallest, threshold), rate)


def _among_largest(values: Float[Tensor, " own"], n: int) -> Int64[Tensor, " kept"]:
    """Places of those values that are among the `n` largest of all processes."""
    parts = collective.every_part(values)
    start = sum(map(len, parts[: collective.part().rank]))
    places = torch.cat(parts).topk(n, sorted=False).indices - start
    return places[(places >= 0) & (places < len(values))]
