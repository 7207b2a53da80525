"""Hyper-parameters of the ReLU SAE with an L1 penalty."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from hsae_hub.architectures.configs.base import SAEConfig, Shapes, encoder_and_decoder
from hsae_hub.architectures.shape import TreeShape


class L1Config(SAEConfig, frozen=True):
    """Hyper-parameters of `l1`."""

    architecture: Literal["l1"] = "l1"
    """Name of the architecture."""
    d_sae: PositiveInt
    """Number of latents."""
    lambda_l1: NonNegativeFloat = 0.04
    """Weight of the sum of a token's acts, in the units of a normalised token (0.04 in those papers)."""
    penalty_warmup_steps: NonNegativeInt = 0
    """Steps over which the penalty grows linearly from 0; short runs lose fewer latents with some."""
    pre_encoder_bias: bool = True
    """Whether `b_dec` is taken away before encoding."""

    def shape(self) -> TreeShape:
        return TreeShape(self.d_sae, 0)

    def tensors(self) -> Shapes:
        return super().tensors() | encoder_and_decoder(self.d_in, self.d_sae)
