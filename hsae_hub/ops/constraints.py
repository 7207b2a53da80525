"""Decoder rows of norm 1 ("ConstrainedAdam"): the gradient along a row is dropped, the row renormalised."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_TINY = 1e-12  # a row of zeros stays one


@torch.no_grad()
def project_out_rows_(
    grad: Float[Tensor, "*rows width"], unit: Float[Tensor, "*rows width"]
) -> None:
    """Takes from each row of `grad`, in place, its part along the unit row of `unit`."""
    grad.sub_((grad * unit).sum(-1, keepdim=True) * unit)


@torch.no_grad()
def normalize_rows_(rows: Float[Tensor, "*rows width"]) -> None:
    """Divides each row, in place, by its norm."""
    rows.div_(rows.norm(dim=-1, keepdim=True).clamp_min(_TINY))
