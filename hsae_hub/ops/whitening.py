"""Whitening: coordinates in which a sample has mean 0 and covariance 1."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

WHITEN_FLOOR = 1e-6
"""An eigenvalue of the covariance counts as at least this share of the largest one: no direction is stretched more than
1000 times as much as another, which float32 can still undo."""
_CHUNK = 8192  # rows that are in memory in float64 at once


class Whitening(NamedTuple):
    """`(x - mean) @ whiten` is white; `y @ unwhiten + mean` undoes it. Both matrices are symmetric."""

    mean: Float[Tensor, " d"]
    whiten: Float[Tensor, "d d"]
    """Σ^(-1/2), Σ the covariance."""
    unwhiten: Float[Tensor, "d d"]
    """Σ^(1/2)."""


def whitening(x: Float[Tensor, "sample d"]) -> Whitening:
    """Mean and roots of the covariance of a sample, in float64; not a number where the sample is not finite."""
    mean = x.mean(0, dtype=torch.float64)
    covariance = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for part in torch.split(x, _CHUNK):
        centred = part.double() - mean
        covariance += centred.T @ centred
    covariance /= max(len(x) - 1, 1)
    if not bool(covariance.isfinite().all()):
        return Whitening(mean, covariance * torch.nan, covariance * torch.nan)
    values, vectors = torch.linalg.eigh(covariance)
    roots = values.clamp_min(WHITEN_FLOOR * float(values[-1])).clamp_min(WHITEN_FLOOR**2).sqrt()
    return Whitening(mean, (vectors / roots) @ vectors.T, (vectors * roots) @ vectors.T)
