"""Hyper-parameters of Nested Dictionary Learning (anonymous, sections 3.1 and 4)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from hsae_hub.architectures.configs.base import SAEConfig, Shapes, encoder_and_decoder
from hsae_hub.architectures.shape import TreeShape


class NestedConfig(SAEConfig, frozen=True):
    """Hyper-parameters of `nested`; the defaults are the paper's."""

    architecture: Literal["nested"] = "nested"
    """Name of the architecture."""
    d_sae: PositiveInt
    """Number of latents, shared and specialised together."""
    shared: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share α of the latents in the shared dictionary, rounded to whole ones; 0 is the flat baseline."""
    lambda_shared: NonNegativeFloat = 0.04
    """Weight of the sum of a token's shared acts."""
    lambda_special: NonNegativeFloat = 0.04
    """Weight of the sum of a token's specialised acts."""

    @model_validator(mode="after")
    def _parts_can_be_normalised(self) -> NestedConfig:
        if self.n_shared == 1 or self.d_sae - self.n_shared < 2:
            raise ValueError(
                f"shared (={self.shared}) of d_sae (={self.d_sae}) gives parts of {self.n_shared} and "
                f"{self.d_sae - self.n_shared}; a layer norm needs 2 latents"
            )
        return self

    @property
    def n_shared(self) -> int:
        """Size of the shared dictionary; its latents come first."""
        return round(self.shared * self.d_sae)

    def shape(self) -> TreeShape:
        return TreeShape(self.d_sae, 0)

    def tensors(self) -> Shapes:
        sizes = {"shared": self.n_shared, "special": self.d_sae - self.n_shared}
        norms: Shapes = {
            f"norm_{part}_{kind}": (size,)
            for part, size in sizes.items()
            for kind in ("weight", "bias")
            if size > 0
        }
        return super().tensors() | encoder_and_decoder(self.d_in, self.d_sae) | norms
