"""The active latents of tokens, and how they are held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Acts:
    """The non-zero latents of each token, in `a` slots; slots that are not used hold the value 0.

    Values are in the units of the raw activations: what a token was divided by is already multiplied back. For a tree
    slot `i` of the first half is a parent and slot `i` of the second half its one child.
    """

    values: Float[Tensor, "*batch a"]
    indices: Int64[Tensor, "*batch a"]
    """Flat indices, 0 to d_sae - 1."""
    d_sae: int
    scale: Float[Tensor, "*batch"]
    """What each token was divided by before encoding, 1 without normalisation; multiplies the decoder's bias."""
    shift: Float[Tensor, "*batch"]
    """What was taken from every dimension of a token before encoding: its mean with layer_norm, else 0."""

    def dense(self) -> Float[Tensor, "*batch d_sae"]:
        """The same acts as one row of `d_sae` values a token."""
        rows = self.values.new_zeros(*self.values.shape[:-1], self.d_sae)
        return rows.scatter_add(-1, self.indices, self.values)

    def l0(self) -> Float[Tensor, "*batch"]:
        """Number of non-zero acts of each token."""
        return (self.values != 0).sum(-1).to(self.values.dtype)

    def replace(self, values: Float[Tensor, "*batch a"]) -> Acts:
        """The same latents with other values."""
        return Acts(values, self.indices, self.d_sae, self.scale, self.shift)

    def keep(self, mask: Any) -> Acts:
        """The same acts, zero where the boolean mask `[*batch, a]` is False."""
        return self.replace(torch.where(mask, self.values, 0))


class SAEOutput(NamedTuple):
    """Result of a forward pass."""

    sae_out: Float[Tensor, "*batch d_in"]
    """The reconstruction, in the scale and dtype of the input."""
    acts: Acts


def nonzero_slots(
    dense: Float[Tensor, "batch d_sae"],
) -> tuple[Float[Tensor, "batch a"], Int64[Tensor, "batch a"]]:
    """Values and indices of the non-zero acts of each row, in as many slots as the fullest row needs, at least one."""
    slots = int((dense != 0).sum(-1).amax(0)) if len(dense) else 0
    indices = dense.abs().topk(max(slots, 1), sorted=False).indices
    return dense.gather(-1, indices), indices
