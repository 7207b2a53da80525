"""Gradients scaled by a norm that several tensors, or parts of them, share; any of them may be sharded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from hsae_hub.ops.collective import beside, whole

_TINY = 1e-12  # gradients of zeros stay zeros


@torch.no_grad()
def clip_groups_(
    columns: Float[Tensor, "d_in d_sae"],
    rows: Float[Tensor, "d_sae d_in"],
    n_groups: int,
    limit: float,
) -> None:
    """Scales each group of latents, their columns and their rows, in place, down to norm `limit` if its is larger.

    Groups are consecutive; where they cannot be equal, the first ones have one latent more.
    """
    norms = torch.stack([whole(vector_norm(columns, dim=0)), whole(vector_norm(rows, dim=1))])
    groups = norms.tensor_split(n_groups, 1)
    factors = [
        (limit / vector_norm(g).clamp_min(_TINY)).clamp_max(1).expand(g.shape[1]) for g in groups
    ]
    factor = torch.cat(factors)
    columns.mul_(beside(factor, columns))
    rows.mul_(beside(factor[:, None], rows))


@torch.no_grad()
def normalize_together_(gradients: Sequence[Float[Tensor, "..."]]) -> None:
    """Divides the tensors, in place, by their common norm."""
    norm = vector_norm(torch.stack([whole(vector_norm(gradient)) for gradient in gradients]))
    norm = norm.clamp_min(_TINY)
    for gradient in gradients:
        gradient.div_(beside(norm, gradient))
