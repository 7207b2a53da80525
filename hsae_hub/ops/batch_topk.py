"""BatchTopK (Bussmann et al. 2024, arXiv 2412.06410): the largest acts of a whole batch, wherever they fall.

The batch is that of all processes: each keeps those of its own rows that are among the largest of all.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.ops import collective
from hsae_hub.ops.kept_linear import Places
from hsae_hub.ops.kernels import largest


@torch.no_grad()
def batch_top_k(pre: Float[Tensor, "batch n"], k: int) -> Places:
    """The `k · batch` largest of the whole batch, ordered by token and then by latent."""
    wanted = k * collective.total_count(len(pre))
    kept = largest(pre, min(wanted, pre.numel()))
    if not collective.alone():
        kept = kept[_among_largest(pre.flatten()[kept], wanted).sort().values]
    return Places(kept // pre.shape[1], kept % pre.shape[1])


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
