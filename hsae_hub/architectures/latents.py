"""Latents: how they are named, and how the active ones of a token are held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.errors import NotFoundError


class TreeShape(NamedTuple):
    """How the latents of an SAE are named: `n_parents` parents, each with `n_children` (0 for a flat SAE).

    The flat view orders them [parents | children]; child `c` of parent `j` is latent `n_parents + j·n_children + c` and
    is written `j/c`.
    """

    n_parents: int
    n_children: int

    @property
    def d_sae(self) -> int:
        """Number of latents, parents and children together."""
        return self.n_parents * (1 + self.n_children)

    def name(self, index: int) -> str:
        """`4121` for a parent, `4121/3` for a child, from the flat index."""
        if index < self.n_parents:
            return str(index)
        parent, child = divmod(index - self.n_parents, self.n_children)
        return f"{parent}/{child}"

    def child(self, parent: int, child: int) -> int:
        """Flat index of a child."""
        return self.n_parents + parent * self.n_children + child

    def parent_of(self, index: int) -> int | None:
        """Flat index of a child's parent; None for a parent."""
        return None if index < self.n_parents else (index - self.n_parents) // self.n_children

    def index_of(self, name: str | int) -> int:
        """Flat index of `4121`, `4121/3`, or of a flat index given as a number.

        Raises:
            NotFoundError: there is no such latent.
        """
        parent, slash, child = str(name).strip().partition("/")
        flat = f"0 to {self.d_sae - 1}"
        if parent.isdecimal() and not slash and int(parent) < self.d_sae:
            return int(parent)
        if parent.isdecimal() and child.isdecimal():
            if int(parent) < self.n_parents and int(child) < self.n_children:
                return self.child(int(parent), int(child))
            flat = f"parents 0 to {self.n_parents - 1}, children 0 to {self.n_children - 1}"
        raise NotFoundError(
            f"no latent {name!r} in this SAE; it has {flat}",
            fix="write a parent as 4121 and its child as 4121/3"
            if self.n_children
            else "write a latent as 4121",
        )


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
