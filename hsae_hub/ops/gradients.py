"""Gradients scaled by a norm that several tensors share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_TINY = 1e-12  # gradients of zeros stay zeros


@torch.no_grad()
def clip_together_(gradients: Sequence[Float[Tensor, "..."]], limit: float) -> None:
    """Scales the tensors, in place, by one factor down to the common norm `limit`, if theirs is larger."""
    factor = (limit / _common_norm(gradients)).clamp_max(1)
    for gradient in gradients:
        gradient.mul_(factor)


@torch.no_grad()
def normalize_together_(gradients: Sequence[Float[Tensor, "..."]]) -> None:
    """Divides the tensors, in place, by their common norm."""
    norm = _common_norm(gradients)
    for gradient in gradients:
        gradient.div_(norm)


def _common_norm(tensors: Sequence[Float[Tensor, "..."]]) -> Float[Tensor, ""]:
    norms = [torch.linalg.vector_norm(tensor) for tensor in tensors]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm.clamp_min(_TINY)
