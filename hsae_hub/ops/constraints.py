"""Decoder rows of norm 1 ("ConstrainedAdam"): the gradient along a row is dropped, the row renormalised."""

from __future__ import annotations

from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

_TINY = 1e-12  # a row of zeros stays one
_AT_ONCE = 1 << 18
"""Numbers that are taken at once on a CPU: what is made of them on the way stays in a core's cache."""


@torch.no_grad()
def project_out_rows_(
    grad: Float[Tensor, "*rows width"], unit: Float[Tensor, "*rows width"]
) -> None:
    """Takes from each row of `grad`, in place, its part along the unit row of `unit`."""
    for some, units in zip(_parts(grad), _parts(unit), strict=True):
        some.addcmul_((some * units).sum(-1, keepdim=True), units, value=-1)


@torch.no_grad()
def normalize_rows_(rows: Float[Tensor, "*rows width"]) -> None:
    """Divides each row, in place, by its norm."""
    for some in _parts(rows):
        some.div_(some.norm(dim=-1, keepdim=True).clamp_min(_TINY))


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    """Views that make it up; one of a tensor that is sharded over processes."""
    if x.device.type != "cpu" or hasattr(x, "device_mesh") or x.ndim < 2 or x.numel() <= _AT_ONCE:
        return (x,)
    return torch.split(x, max(_AT_ONCE // prod(x.shape[1:]), 1))
