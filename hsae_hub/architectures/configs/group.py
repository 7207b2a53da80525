"""Hyper-parameters of Hierarchical Feature Groups (anonymous, sections 4 and 5)."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from hsae_hub.architectures.configs.base import Normalize, SAEConfig, Shapes, encoder_and_decoder
from hsae_hub.architectures.shape import TreeShape


class GroupConfig(SAEConfig, frozen=True):
    """Hyper-parameters of `group`; the defaults are the paper's."""

    architecture: Literal["group"] = "group"
    """Name of the architecture."""
    normalize: Normalize = "layer_norm"
    """What is done to a token's activation before encoding; the paper's is a layer norm without weights."""
    d_sae: PositiveInt
    """Number of latents."""
    n_groups: PositiveInt = 5
    """Groups of latents, at most `d_sae`; where they cannot be equal, the first ones have one latent more."""
    lambda_l1: NonNegativeFloat = 0.04
    """Weight of the sum of a token's acts in the first group."""
    gamma: PositiveFloat = 1.5
    """Factor from each group's weight to the next one's; 1 is the flat baseline."""
    group_clip_norm: PositiveFloat | None = 1.0
    """Largest norm of one group's gradient, encoder columns and decoder rows together; null does not clip."""
    weight_decay: NonNegativeFloat = 1e-4
    """Each step the encoder and its bias shrink by the learning rate times this (AdamW); the decoder does not."""

    @model_validator(mode="after")
    def _groups_fit(self) -> GroupConfig:
        if self.n_groups > self.d_sae:
            raise ValueError(f"n_groups (={self.n_groups}) must be at most d_sae (={self.d_sae})")
        return self

    def shape(self) -> TreeShape:
        return TreeShape(self.d_sae, 0)

    def tensors(self) -> Shapes:
        return super().tensors() | encoder_and_decoder(self.d_in, self.d_sae)
