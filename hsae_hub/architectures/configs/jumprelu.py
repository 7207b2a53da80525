"""Hyper-parameters of the JumpReLU SAE (Rajamanoharan et al. 2024, arXiv 2407.14435)."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from hsae_hub.architectures.configs.base import SAEConfig, Shapes, encoder_and_decoder
from hsae_hub.architectures.shape import TreeShape


class JumpReLUConfig(SAEConfig, frozen=True):
    """Hyper-parameters of `jumprelu`; the defaults are the papers', for tokens whose mean squared norm is 1."""

    architecture: Literal["jumprelu"] = "jumprelu"
    """Name of the architecture."""
    d_sae: PositiveInt
    """Number of latents."""
    lambda_l0: NonNegativeFloat
    """Weight of a token's number of acts; it sets the sparsity, so the paper sweeps it."""
    penalty_warmup_steps: NonNegativeInt = 10_000
    """Steps over which the penalty grows linearly from 0."""
    bandwidth: PositiveFloat = 1e-3
    """Width of the rectangle kernel: a pre-activation moves its threshold when nearer to it than half of this."""
    init_threshold: PositiveFloat = 1e-3
    """Every threshold at the start."""
    pre_encoder_bias: bool = True
    """Whether `b_dec` is taken away before encoding; Gemma Scope's published weights have that folded into `b_enc`."""

    def shape(self) -> TreeShape:
        return TreeShape(self.d_sae, 0)

    def tensors(self) -> Shapes:
        return (
            super().tensors()
            | encoder_and_decoder(self.d_in, self.d_sae)
            | {"threshold": (self.d_sae,)}
        )
