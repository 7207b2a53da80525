"""Hyper-parameters of the TopK SAE (Gao et al. 2024, arXiv 2406.04093)."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt, model_validator

from hsae_hub.architectures.configs.base import SAEConfig, Shapes, encoder_and_decoder
from hsae_hub.architectures.shape import TreeShape


class TopKConfig(SAEConfig, frozen=True):
    """Hyper-parameters of `topk`."""

    architecture: Literal["topk"] = "topk"
    d_sae: PositiveInt
    """Number of latents."""
    k: PositiveInt
    """Latents kept a token, at most `d_sae`."""
    bias: bool = True
    """Whether there are `b_enc` and `b_dec`; the baselines of Muchane et al. 2025 have none."""
    pre_encoder_bias: bool = True
    """Whether `b_dec` is taken away before encoding."""
    aux_weight: NonNegativeFloat = 1 / 32
    """Weight of AuxK: dead latents reconstruct the error, `d_in / 2` of them at a time (Gao et al., A.2)."""
    dead_after_tokens: PositiveInt = 10_000_000
    """Tokens without an act after which a latent counts as dead; at most a tenth of the run."""

    @model_validator(mode="after")
    def _k_fits(self) -> TopKConfig:
        if self.k > self.d_sae:
            raise ValueError(f"k (={self.k}) must be at most d_sae (={self.d_sae})")
        return self

    def shape(self) -> TreeShape:
        return TreeShape(self.d_sae, 0)

    def tensors(self) -> Shapes:
        own = encoder_and_decoder(self.d_in, self.d_sae)
        kept = {name: shape for name, shape in own.items() if self.bias or name[0] == "W"}
        return super().tensors() | kept
