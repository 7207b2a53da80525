"""Hyper-parameters of the BatchTopK SAE (Bussmann et al. 2024, arXiv 2412.06410)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from hsae_hub.architectures.configs.base import SAEConfig, Shapes, encoder_and_decoder
from hsae_hub.architectures.shape import TreeShape


class BatchTopKConfig(SAEConfig, frozen=True):
    """Hyper-parameters of `batch_topk`."""

    architecture: Literal["batch_topk"] = "batch_topk"
    d_sae: PositiveInt
    """Number of latents."""
    k: PositiveInt
    """Latents kept a token, on average over a training batch; at most `d_sae`."""
    threshold_rate: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the newest batch in the running average of the smallest kept act; the first 1 / rate count alike."""
    aux_weight: NonNegativeFloat = 1 / 32
    """Weight of AuxK: dead latents reconstruct the error, `d_in / 2` of them at a time (Gao et al., A.2)."""
    dead_after_tokens: PositiveInt = 10_000_000
    """Tokens without an act after which a latent counts as dead; at most a tenth of the run."""

    @model_validator(mode="after")
    def _k_fits(self) -> BatchTopKConfig:
        if self.k > self.d_sae:
            raise ValueError(f"k (={self.k}) must be at most d_sae (={self.d_sae})")
        return self

    def shape(self) -> TreeShape:
        return TreeShape(self.d_sae, 0)

    def tensors(self) -> Shapes:
        return (
            super().tensors()
            | encoder_and_decoder(self.d_in, self.d_sae)
            | {"threshold": (self.d_sae,)}
        )
