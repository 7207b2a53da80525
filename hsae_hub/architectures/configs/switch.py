"""Hyper-parameters of the Switch SAE (Mudide et al. 2024, arXiv 2410.08201)."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt, model_validator

from hsae_hub.architectures.configs.base import SAEConfig, Shapes
from hsae_hub.architectures.shape import TreeShape


class SwitchConfig(SAEConfig, frozen=True):
    """Hyper-parameters of `switch`."""

    architecture: Literal["switch"] = "switch"
    d_sae: PositiveInt
    """Number of latents, those of all experts together; a multiple of `n_experts`."""
    n_experts: PositiveInt
    """Experts; expert `e` has latents `e · d_sae / n_experts` up to the next one's first."""
    k: PositiveInt
    """Latents kept a token, all of one expert; at most `d_sae / n_experts`."""
    alpha: NonNegativeFloat = 3.0
    """Weight of the load balance."""
    variant: Literal["paper", "released"] = "paper"
    """`released` multiplies `alpha` by `d_in`, as the authors' code does with its 3, for raw activations."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> SwitchConfig:
        if self.d_sae % self.n_experts:
            raise ValueError(
                f"d_sae (={self.d_sae}) must be a multiple of n_experts (={self.n_experts})"
            )
        width = self.d_sae // self.n_experts
        if self.k > width:
            raise ValueError(f"k (={self.k}) must be at most d_sae / n_experts (={width})")
        return self

    def shape(self) -> TreeShape:
        return TreeShape(self.d_sae, 0)

    def tensors(self) -> Shapes:
        d_in, d_sae = self.d_in, self.d_sae
        return super().tensors() | {
            "W_enc": (d_in, d_sae),
            "W_dec": (d_sae, d_in),
            "b_dec": (d_in,),
            "W_router": (d_in, self.n_experts),
            "b_router": (d_in,),
        }
