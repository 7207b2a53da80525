"""What every sparse autoencoder here has in common: its config, its acts, its forward and its place in training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int64
from pydantic import BaseModel, PositiveInt
from torch import Tensor, nn

from hsae_hub.errors import NotFoundError

NORM_EPS = 1e-6
"""Added to a token's norm before dividing, as in seed 004's code: a zero vector stays zero."""


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


class SAEConfig(BaseModel, frozen=True, extra="forbid"):
    """Hyper-parameters of an architecture. A subclass adds its own and fixes `architecture`."""

    architecture: str
    d_in: PositiveInt
    """Width of the activations."""
    normalize: Literal["none", "unit_norm"] = "none"
    """What is done to a token's activation before encoding; undone in the acts, so that decode is linear."""

    def shape(self) -> TreeShape:
        """How many parents and children there are."""
        raise NotImplementedError


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

    def dense(self) -> Float[Tensor, "*batch d_sae"]:
        """The same acts as one row of `d_sae` values a token."""
        rows = self.values.new_zeros(*self.values.shape[:-1], self.d_sae)
        return rows.scatter_add(-1, self.indices, self.values)

    def l0(self) -> Float[Tensor, "*batch"]:
        """Number of non-zero acts of each token."""
        return (self.values != 0).sum(-1).to(self.values.dtype)

    def replace(self, values: Float[Tensor, "*batch a"]) -> Acts:
        """The same latents with other values."""
        return Acts(values, self.indices, self.d_sae, self.scale)

    def keep(self, mask: Any) -> Acts:
        """The same acts, zero where the boolean mask `[*batch, a]` is False."""
        return self.replace(torch.where(mask, self.values, 0))


class SAEOutput(NamedTuple):
    """Result of a forward pass."""

    sae_out: Float[Tensor, "*batch d_in"]
    """The reconstruction, in the scale and dtype of the input."""
    acts: Acts


class TrainStep(NamedTuple):
    """Where training stands."""

    step: int
    """Steps done before this one: 0 at the first."""
    n_steps: int
    """Steps of the whole run."""


C = TypeVar("C", bound=SAEConfig)


class SAE(nn.Module, ABC, Generic[C]):
    """A sparse autoencoder: raw activations in, raw activations out.

    `encode` returns the acts that are decoded, masked; `decode` is linear in them and keeps no state between calls.
    Whatever an architecture does between training steps belongs to it too. A subclass makes its parameters
    uninitialised in `__init__`, so that loading takes no time for values that are replaced anyway.
    """

    config_class: ClassVar[type[SAEConfig]]
    W_enc: Float[Tensor, "d_in n_parents"]
    b_dec: Float[Tensor, " d_in"] | None
    """In the units of a normalised token: added once to every reconstruction, taken away before encoding."""
    info: Any = None
    """Where a loaded SAE came from (`artifact.ArtifactInfo`); None for one that was just built."""

    def __init__(self, config: C) -> None:
        super().__init__()
        self.config: C = config
        self.shape = config.shape()
        self.d_in = config.d_in
        self.d_sae = self.shape.d_sae
        self.register_parameter("b_dec", None)

    @abstractmethod
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the initial weights."""

    @abstractmethod
    def encode_normalized(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch a"], Int64[Tensor, "batch a"]]:
        """Values and flat indices of the acts of tokens that are normalised already."""

    @abstractmethod
    def decode_rows(
        self, values: Float[Tensor, "batch a"], indices: Int64[Tensor, "batch a"]
    ) -> Float[Tensor, "batch d_in"]:
        """Sum of each token's decoder directions, weighted by its acts, without the bias."""

    @abstractmethod
    def decoder_rows(self, indices: Int64[Tensor, "*i"]) -> Float[Tensor, "*i d_in"]:
        """Decoder directions of latents by flat index: an act times its row is what the latent adds to the output."""

    @abstractmethod
    def losses(
        self, x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Float[Tensor, ""]]:
        """The training loss under `loss` and each of its parts, for a batch of raw activations."""

    def runner_ups(
        self, x: Float[Tensor, "*batch d_in"], acts: Acts
    ) -> Float[Tensor, "*batch k n_children"] | None:
        """Acts of all children of the active parents, also of those that are not decoded; None for a flat SAE."""
        return None

    def before_update(self) -> None:
        """Called with fresh gradients, before clipping and the optimiser's step."""

    def after_update(self, step: TrainStep, optimizer: torch.optim.Optimizer) -> None:
        """Called after the optimiser's step: constraints, and work between steps."""

    def reset_counters(self) -> None:
        """Sets what training counts beside the weights to its start."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Acts:
        """The acts of raw activations, as they are decoded."""
        flat = x.reshape(-1, self.d_in).to(self.dtype)
        scale = self.token_scale(flat)
        values, indices = self.encode_normalized(flat / scale[:, None])
        batch, slots = x.shape[:-1], values.shape[-1]
        return Acts(
            (values * scale[:, None]).reshape(*batch, slots),
            indices.reshape(*batch, slots),
            self.d_sae,
            scale.reshape(batch),
        )

    def decode(self, acts: Acts) -> Float[Tensor, "*batch d_in"]:
        """The reconstruction of raw activations from acts; linear in their values and their scale."""
        batch, slots = acts.values.shape[:-1], acts.values.shape[-1]
        flat = self.decode_rows(acts.values.reshape(-1, slots), acts.indices.reshape(-1, slots))
        if self.b_dec is not None:
            flat = flat + acts.scale.reshape(-1, 1) * self.b_dec
        return flat.reshape(*batch, self.d_in)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> SAEOutput:
        """Encodes and decodes; the reconstruction comes back in the dtype of `x`."""
        acts = self.encode(x)
        return SAEOutput(self.decode(acts).to(x.dtype), acts)

    def weights(self) -> dict[str, Float[Tensor, ...]]:
        """The tensors that make up the artifact, by their name on disk."""
        return {name: p.detach() for name, p in self.named_parameters()}

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights; inputs are cast to it."""
        return self.W_enc.dtype

    def token_scale(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch"]:
        """What each token is divided by before encoding."""
        if self.config.normalize == "unit_norm":
            norms: Tensor = torch.linalg.vector_norm(x, dim=-1)
            return norms + NORM_EPS
        return x.new_ones(x.shape[:-1])
