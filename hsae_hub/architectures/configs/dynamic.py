"""Hyper-parameters of HierarchicalSAE (anonymous, section 4)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from hsae_hub.architectures.configs.base import Normalize, SAEConfig, Shapes, encoder_and_decoder
from hsae_hub.architectures.shape import TreeShape


class DynamicConfig(SAEConfig, frozen=True):
    """Hyper-parameters of `dynamic`; the defaults are the paper's."""

    architecture: Literal["dynamic"] = "dynamic"
    """Name of the architecture."""
    normalize: Normalize = "standardize"
    """What is done to a token's activation before encoding."""
    d_sae: PositiveInt
    """Number of latents."""
    lambda_0: NonNegativeFloat | None = None
    """Weight of the sum of a token's acts at the first step; null is `1 / √d_sae`."""
    schedule: bool = True
    """Whether that weight falls linearly, to 0 at the end of the run."""
    adaptive: bool = True
    """Whether that weight is multiplied by `target_loss / reconstruction`, within 0.1 and 2."""
    target_loss: PositiveFloat = 2.5
    """Reconstruction loss of a normalised token at which the adaptive factor is 1."""
    resample: bool = True
    """Whether latents that fire too rarely start anew from examples with a high loss."""
    min_rate: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of tokens on which a latent has to fire."""
    track: bool = True
    """Whether that share is taken over a sliding window, at each step; else over one batch, once in `window` steps."""
    window: PositiveInt = 100
    """Batches in the window; a latent is judged when it has seen as many since its start."""
    merge: bool = True
    """Whether latents with nearly the same decoder row become one, and the other one of them starts anew."""
    merge_every: PositiveInt = 100
    """Steps between passes of merging."""
    merge_cosine: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Cosine of two decoder rows above which they are merged."""
    weight_decay: NonNegativeFloat = 0.01
    """Each step the encoder and its bias shrink by the learning rate times this; decoder rows have norm 1 anyway."""

    @model_validator(mode="after")
    def _tracking_has_a_use(self) -> DynamicConfig:
        if self.track and not self.resample:
            raise ValueError("track needs resample: the window only says which latents start anew")
        return self

    def shape(self) -> TreeShape:
        return TreeShape(self.d_sae, 0)

    def tensors(self) -> Shapes:
        return super().tensors() | encoder_and_decoder(self.d_in, self.d_sae)
