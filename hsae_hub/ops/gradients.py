"""Gradients scaled by a norm that several tensors, or parts of them, share; any of them may be sharded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from hsae_hub.ops.collective import beside, whole

_TINY = 1e-12  # gradients of zeros stay zeros


@torch.no_grad()
def scale_latents_(
    columns: Float[Tensor, "d_in d_sae"],
    rows: Float[Tensor, "d_sae d_in"],
    factors: Callable[[Tensor], Tensor],
) -> None:
    """Multiplies columns and rows of each latent, in place, by what `factors` makes of all latents' squared norms."""
    norms = torch.stack([whole(vector_norm(columns, dim=0)), whole(vector_norm(rows, dim=1))])
    factor = factors(norms.square().sum(0))
    columns.mul_(beside(factor, columns))
    rows.mul_(beside(factor[:, None], rows))


def group_factors(
    squares: Float[Tensor, " d_sae"], n_groups: int, limit: float
) -> Float[Tensor, " d_sae"]:
    """What scales each group of latents down to norm `limit` if its is larger, from the squared norms of latents.

    Groups are consecutive; where they cannot be equal, the first ones have one latent more.
    """
    groups = squares.tensor_split(n_groups)
    factors = [
        (limit / g.sum().sqrt().clamp_min(_TINY)).clamp_max(1).expand(len(g)) for g in groups
    ]
    return torch.cat(factors)


@torch.no_grad()
def normalize_together_(gradients: Sequence[Float[Tensor, "..."]]) -> None:
    """Divides the tensors, in place, by their common norm."""
    norm = vector_norm(torch.stack([whole(vector_norm(gradient)) for gradient in gradients]))
    norm = norm.clamp_min(_TINY)
    for gradient in gradients:
        gradient.div_(beside(norm, gradient))
