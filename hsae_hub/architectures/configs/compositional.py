"""Hyper-parameters of CompositionalLens (anonymous, sections 4 and 5)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from hsae_hub.architectures.configs.base import SAEConfig, Shapes
from hsae_hub.architectures.shape import TreeShape

BATCH_NORM = ("bn_mean", "bn_var", "bn_weight", "bn_bias")
"""What normalises the acts of a tier before they are composed: running statistics, then an affine map."""


def joint(name: str, i: int) -> str:
    """Name of what joins tier `i`, counted from 0, to the next: `W_c`, then `W_c_2`, `W_c_3`."""
    return name if i == 0 else f"{name}_{i + 1}"


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

    def tensors(self) -> Shapes:
        sizes: dict[int | None, int] = {None: self.d_in, **dict(enumerate(self.widths))}
        own = {name: tuple(sizes[tier] for tier in axes) for name, axes in self.axes().items()}
        return super().tensors() | own | {"b_dec": (self.d_in,)}

    def axes(self) -> dict[str, tuple[int | None, ...]]:
        """The tier that each axis of a tensor runs over, counted from 0; None for `d_in`."""
        tiers = range(len(self.widths))
        own_decoders = () if self.tied else tiers
        return {
            **{f"W_{i + 1}": (None, i) for i in tiers},
            **{joint("W_c", i): (i, i + 1) for i in tiers[:-1]},
            **{f"b_{i + 1}": (i,) for i in tiers},
            **{f"W_dec_{i + 1}": (i, None) for i in own_decoders},
            **{joint(name, i): (i,) for name in BATCH_NORM for i in tiers[:-1]},
        }
