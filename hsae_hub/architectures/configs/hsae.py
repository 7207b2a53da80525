"""Hyper-parameters of the Hierarchical SAE (Muchane et al. 2025)."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from hsae_hub.architectures.configs.base import Normalize, SAEConfig, Shapes
from hsae_hub.architectures.shape import TreeShape


class HSAEConfig(SAEConfig, frozen=True):
    """Hyper-parameters of `hsae`; the defaults are the paper's."""

    architecture: Literal["hsae"] = "hsae"
    normalize: Normalize = "unit_norm"
    n_parents: PositiveInt
    n_children: PositiveInt
    """Children of each parent."""
    d_subspace: PositiveInt
    """Width of the subspace in which a parent's children live."""
    k: PositiveInt
    """Parents kept a token, each with its one best child; at most `n_parents`."""
    bias: bool = False
    """Whether there is `b_dec`; the paper found that it makes training less stable."""
    beta: NonNegativeFloat = 0.1
    """Weight of the reconstruction from the parents alone (eq. 3.3)."""
    lambda_ortho: NonNegativeFloat = 0.1
    """Weight of the bi-orthogonality of parents (eq. 3.4)."""
    lambda_l1: NonNegativeFloat = 0.001
    penalty_warmup_steps: NonNegativeInt = 1000
    """Steps over which both penalties grow linearly from 0."""
    variant: Literal["paper", "released"] = "paper"
    """`released` follows the authors' code where it differs: ‖ED − diag‖ takes the diagonal from whole columns, and l1
    counts the children of all k slots, also of those without an active parent."""
    ortho: Literal["exact", "bf16", "probes"] = "exact"
    """`bf16` rounds what is multiplied, a quarter of the time where the processor has such products; `probes` estimates
    ‖ED‖_F² from random vectors."""
    l1_over: Literal["all", "active"] = "all"
    """l1 on every parent above the threshold and every child of the kept parents, or on the acts that are decoded."""
    penalty_every: PositiveInt = 1
    """Penalties every so many steps, weighted by as much. With `l1_over: active`, 16 trains as well as 1, at a 16th of
    their cost (`train/RESULTS.md`)."""

    @model_validator(mode="after")
    def _k_fits(self) -> HSAEConfig:
        if self.k > self.n_parents:
            raise ValueError(f"k (={self.k}) must be at most n_parents (={self.n_parents})")
        return self

    def shape(self) -> TreeShape:
        return TreeShape(self.n_parents, self.n_children)

    def tensors(self) -> Shapes:
        d, n, m, s = self.d_in, self.n_parents, self.n_children, self.d_subspace
        own: Shapes = {
            "W_enc": (d, n),
            "W_dec": (n, d),
            "W_down": (n, s, d),
            "W_up": (n, d, s),
            "child_W_enc": (n, m, s),
            "child_W_dec": (n, s, m),
        }
        return super().tensors() | own | ({"b_dec": (d,)} if self.bias else {})
