"""Hyper-parameters of the Gated SAE (Rajamanoharan et al. 2024, arXiv 2404.16014)."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from hsae_hub.architectures.configs.base import SAEConfig, Shapes
from hsae_hub.architectures.shape import TreeShape


class GatedConfig(SAEConfig, frozen=True):
    """Hyper-parameters of `gated`."""

    architecture: Literal["gated"] = "gated"
    """Name of the architecture."""
    d_sae: PositiveInt
    """Number of latents."""
    lambda_l1: NonNegativeFloat
    """Weight of the sum of a token's positive gate pre-activations; it sets the sparsity, so the paper sweeps it."""
    penalty_warmup_steps: NonNegativeInt = 0
    """Steps over which the penalty grows linearly from 0; short runs lose fewer latents with some."""
    pre_encoder_bias: bool = True
    """Whether `b_dec` is taken away before encoding."""

    def shape(self) -> TreeShape:
        return TreeShape(self.d_sae, 0)

    def tensors(self) -> Shapes:
        d_in, d_sae = self.d_in, self.d_sae
        return super().tensors() | {
            "W_enc": (d_in, d_sae),
            "b_gate": (d_sae,),
            "b_mag": (d_sae,),
            "r_mag": (d_sae,),
            "W_dec": (d_sae, d_in),
            "b_dec": (d_in,),
        }
