"""Hyper-parameters of CompositionalLens (anonymous, sections 4 and 5)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from hsae_hub.architectures.configs.base import SAEConfig
from hsae_hub.architectures.shape import TreeShape


class CompositionalConfig(SAEConfig, frozen=True):
    """Hyper-parameters of `compositional`; the defaults are the paper's."""

    architecture: Literal["compositional"] = "compositional"
    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=2)]
    """Latents of each tier, at least two tiers. A trained SAE has those that reallocation left it with."""
    tied: bool = True
    """Whether a tier decodes with its basis (eq. 4) or with rows of its own, which have norm 1."""
    compose_through: Literal["first", "second"] = "second"
    """Which of the two tiers that `W_c` joins has the basis that brings a composition back to `d_in`; `first` takes
    equal widths that stay."""
    lambda_sparsity: NonNegativeFloat = 0.04
    """Weight of the l1 norm of all acts."""
    lambda_composition: NonNegativeFloat = 0.05
    """Weight of the squared distance between a tier's acts and `W_c` times those of the tier before."""
    starts: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.0, 0.5)
    """Fraction of the run from which each tier takes part, rising from 0; the paper has 10,000 steps a tier."""
    reallocate_every: PositiveInt | None = 1000
    """Steps in which a latent has to act, or it moves to the tier that explains most a latent; null moves none."""

    @model_validator(mode="after")
    def _tiers_fit(self) -> CompositionalConfig:
        starts, widths = list(self.starts), list(self.widths)
        if len(starts) != len(widths) or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"starts (={starts}) must rise from 0, as many as widths (={widths})")
        if self.compose_through == "first" and (len(set(widths)) > 1 or self.reallocate_every):
            raise ValueError(
                f"compose_through (=first) must have equal widths (={widths}) "
                f"and reallocate_every (={self.reallocate_every}) null"
            )
        return self

    def shape(self) -> TreeShape:
        return TreeShape(sum(self.widths), 0)
