"""Activations that jump at a learned threshold (Rajamanoharan et al. 2024, arXiv 2407.14435, section 3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def step_through(
    pre: Float[Tensor, "*entries"], threshold: Float[Tensor, "*entries_or_n"], bandwidth: float
) -> Float[Tensor, "*entries"]:
    """1 where `pre > threshold`, else 0.

    The gradient is the paper's straight-through one: with the rectangle kernel, `-1 / bandwidth` for the
    threshold where `pre` is nearer to it than half a bandwidth, and nothing for `pre`.
    """
    pre, fixed = pre.detach(), threshold.detach()
    window = ((pre - fixed).abs() < bandwidth / 2).to(pre.dtype)
    return (pre > fixed).to(pre.dtype) - window * ((threshold - fixed) / bandwidth)


def jump_relu(
    pre: Float[Tensor, "*entries"],
    active: Float[Tensor, "*entries"],
    threshold: Float[Tensor, "*entries_or_n"],
) -> Float[Tensor, "*entries"]:
    """`pre` where `active`, its step, is 1, else 0; the gradient of the threshold is `threshold` times the step's."""
    jump = active.detach()
    return torch.where(jump > 0, pre, 0) + threshold.detach() * (active - jump)
