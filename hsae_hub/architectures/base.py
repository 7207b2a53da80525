"""What every sparse autoencoder here has in common: its acts, its forward and its place in training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.architectures.configs.base import SAEConfig
from hsae_hub.architectures.latents import Acts, SAEOutput
from hsae_hub.errors import MisfitError
from hsae_hub.ops import (
    FewTokens,
    StoredTable,
    block_sum,
    empty_blocks,
    normalize_rows_,
    project_out_rows_,
    scale_latents_,
    whitening,
)

NORM_EPS = 1e-6
"""Added to a token's norm before dividing, as in Muchane et al.'s code: a zero vector stays zero."""

LAYER_NORM_EPS = 1e-5

STORED_BYTES = 1 << 28
"""Memory, at most, for the rows used last of an SAE whose tables stay on disk."""


class TrainStep(NamedTuple):
    """Where training stands."""

    step: int
    """Steps done before this one: 0 at the first."""
    n_steps: int
    """Steps of the whole run."""
    microbatches: int = 1
    """Parts of a batch, each with losses of its own, between two updates."""


C = TypeVar("C", bound=SAEConfig)
_CONSTANTS = ("norm_mean", "norm_std", "norm_scale", "norm_whiten", "norm_unwhiten")


class SAE(nn.Module, ABC, Generic[C]):
    """A sparse autoencoder: raw activations in, raw activations out.

    `encode` returns the acts that are decoded, masked; `decode` is linear in them and keeps no state between calls.
    Whatever an architecture does between training steps belongs to it too. A subclass makes its parameters
    uninitialised in `__init__`, so that loading takes no time for values that are replaced anyway. One without a
    `W_dec` of unit rows, a row a latent, says how it decodes and what it constrains. One that overrides neither
    `before_update` nor `after_update` may be trained by an optimiser that does their work, without dense gradients.
    """

    config_class: ClassVar[type[SAEConfig]]
    title: ClassVar[str]
    """What it is, in a few words: a card begins with it."""
    citation: ClassVar[str] = ""
    """BibTeX of its paper, for the card."""
    can_shard: ClassVar[bool] = True
    """Whether several processes may each hold a part of every weight; not where single latents are exchanged."""
    can_accumulate: ClassVar[bool] = True
    """Whether its loss of a batch is the mean of its losses of parts; not where it looks at a batch as a whole."""
    tables: ClassVar[tuple[str, ...]] = ("W_dec",)
    """Weights, by their names on disk, of which a token reads only the rows of its acts: they may stay on disk."""
    unit_rows: ClassVar[tuple[str, ...]] = ("W_dec",)
    """Parameters whose rows keep norm 1."""
    read_by_rows: ClassVar[tuple[str, ...]] = ()
    """Parameters of which losses read blocks by `block_dot`, `block_sum` or `weighted_rows` alone, but after
    `ops.factored.read_whole`: an optimiser may leave others behind until they are read."""
    scales_latents: ClassVar[bool] = False
    """Whether gradients are scaled latent by latent."""
    W_enc: Float[Tensor, "d_in n_parents"]
    W_dec: Float[Tensor, "n_parents d_in"]
    b_dec: Float[Tensor, " d_in"] | None
    """In the units of a normalised token: added once to every reconstruction, taken away before encoding."""
    norm_mean: Float[Tensor, " d_in"] | None
    norm_std: Float[Tensor, " d_in"] | None
    norm_scale: Float[Tensor, ""] | None
    norm_whiten: Float[Tensor, "d_in d_in"] | None
    """Σ^(-1/2); a row vector is multiplied by it from the right."""
    norm_unwhiten: Float[Tensor, "d_in d_in"] | None
    """Σ^(1/2)."""
    info: Any = None
    """Where a loaded SAE came from (`artifact.ArtifactInfo`); None for one that was just built."""

    def __init__(self, config: C) -> None:
        super().__init__()
        self.config: C = config
        self._stored: dict[str, StoredTable] = {}
        self._before_use: Callable[[], None] | None = None
        self.few_tokens = FewTokens()
        self.shape = config.shape()
        self.d_in = config.d_in
        self.d_sae = self.shape.d_sae
        self.register_parameter("b_dec", None)
        constants: dict[str, Tensor | None] = dict.fromkeys(_CONSTANTS)
        if config.normalize == "standardize":
            constants["norm_mean"] = torch.zeros(config.d_in)
            constants["norm_std"] = torch.ones(config.d_in)
        elif config.normalize == "mean_norm":
            constants["norm_scale"] = torch.ones(())
        if config.whiten:
            constants["norm_mean"] = torch.zeros(config.d_in)
            constants["norm_whiten"] = torch.eye(config.d_in)
            constants["norm_unwhiten"] = torch.eye(config.d_in)
        for name, value in constants.items():
            self.register_buffer(name, value)

    @abstractmethod
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws the initial weights."""

    @abstractmethod
    def encode_normalized(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch a"], Int64[Tensor, "batch a"]]:
        """Values and flat indices of the acts of tokens that are normalised already."""

    def sum_rows(
        self, values: Float[Tensor, "batch a"], indices: Int64[Tensor, "batch a"]
    ) -> Float[Tensor, "batch d_in"]:
        """Sum of decoder directions weighted by acts, before normalisation is undone, without the bias."""
        table, place = self.blocks("W_dec", indices)
        return block_sum(values[..., None], place, table)

    def rows(self, indices: Int64[Tensor, "*i"]) -> Float[Tensor, "*i d_in"]:
        """Decoder directions of latents by flat index, before normalisation is undone."""
        table, place = self.blocks("W_dec", indices)
        return table[place, 0]

    @abstractmethod
    def losses(
        self, x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Float[Tensor, ""]]:
        """The training loss under `loss` and each of its parts, for a batch of raw activations.

        Several processes that train together each give their rows of the batch: a mean over rows needs no care then,
        what else is made of the batch goes through `ops.collective`. It runs on the meta device too, without values:
        there `hsae recipes check` counts what a step takes.
        """

    def runner_ups(
        self, x: Float[Tensor, "*batch d_in"], acts: Acts
    ) -> Float[Tensor, "*batch k n_children"] | None:
        """Acts of all children of the active parents, also of those that are not decoded; None for a flat SAE."""
        return None

    def before_step(self) -> None:
        """Called with fresh gradients of vectors, whoever has those of tables, before all else that is done to them."""

    def after_step(self, lr: float) -> None:
        """Called after the optimiser's step, before rows get norm 1; it changes no `unit_rows`."""

    def latent_factors(self, squares: Float[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
        """What each latent's gradient is multiplied by, from its squared norm; asked for with `scales_latents`.

        That is the gradient of its column of `W_enc` and of its row of `W_dec`, from which what keeps norm 1 is gone.
        """
        raise NotImplementedError

    def before_update(self) -> None:
        """Called with fresh gradients, before clipping and the optimiser's step: unit rows keep their norm."""
        self.before_step()
        for rows in map(self.get_parameter, self.unit_rows):
            if rows.grad is not None:
                project_out_rows_(rows.grad, rows)
        if self.scales_latents and self.W_enc.grad is not None and self.W_dec.grad is not None:
            scale_latents_(self.W_enc.grad, self.W_dec.grad, self.latent_factors)

    def after_update(self, step: TrainStep, optimizer: torch.optim.Optimizer) -> None:
        """Called after the optimiser's step, for constraints and work between steps: unit rows get norm 1."""
        self.after_step(optimizer.param_groups[0]["lr"])
        for rows in map(self.get_parameter, self.unit_rows):
            normalize_rows_(rows)

    def report(self, x: Float[Tensor, "tokens d_in"]) -> dict[str, float]:
        """What its paper measures of its parts (tiers, groups …) beside the usual metrics, on raw activations."""
        return {}

    @property
    def needs_sample(self) -> bool:
        """Whether normalising takes constants that come from a sample of activations."""
        return any(getattr(self, name) is not None for name in _CONSTANTS)

    @torch.no_grad()
    def fit_normalization(self, x: Float[Tensor, "sample d_in"]) -> None:
        """Sets the constants of normalising from a sample of raw activations."""
        if self.norm_mean is not None and self.norm_std is not None:
            self.norm_mean.copy_(x.double().mean(0))
            self.norm_std.copy_(x.double().std(0).clamp_min(NORM_EPS))
        if self.config.whiten:
            found = whitening(x)
            for name, value in zip(("mean", "whiten", "unwhiten"), found, strict=True):
                getattr(self, f"norm_{name}").copy_(value)
        if self.norm_scale is not None:
            shared = self._centred(x.to(self.dtype))
            norms: Tensor = torch.linalg.vector_norm(shared.double(), dim=-1)
            self.norm_scale.copy_(norms.mean() / self.d_in**0.5 + NORM_EPS)

    def reset_counters(self) -> None:
        """Sets what training counts beside the weights to its start."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Acts:
        """The acts of raw activations, as they are decoded.

        Raises:
            MisfitError: `x` has another width.
        """
        if x.shape[-1:] != (self.d_in,):
            raise MisfitError(
                f"activations of shape {list(x.shape)}; this SAE reads [..., {self.d_in}]"
            )
        if self._before_use is not None:
            self._before_use()
        normal, scale, shift = self.normalize(x.reshape(-1, self.d_in))
        values, indices = self.encode_normalized(normal)
        batch, slots = x.shape[:-1], values.shape[-1]
        return Acts(
            (values * scale[:, None]).reshape(*batch, slots),
            indices.reshape(*batch, slots),
            self.d_sae,
            scale.reshape(batch),
            shift.reshape(batch),
        )

    def decode(self, acts: Acts) -> Float[Tensor, "*batch d_in"]:
        """The reconstruction of raw activations from acts; linear in values, scale and shift, but for `norm_mean`."""
        batch, slots = acts.values.shape[:-1], acts.values.shape[-1]
        total = self.sum_rows(acts.values.reshape(-1, slots), acts.indices.reshape(-1, slots))
        raw = self.denormalize(total, acts.scale.reshape(-1), acts.shift.reshape(-1))
        return raw.reshape(*batch, self.d_in)

    def denormalize(
        self,
        total: Float[Tensor, "batch d_in"],
        scale: Float[Tensor, " batch"],
        shift: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch d_in"]:
        """Raw activations from sums of decoder directions: the bias is added and `normalize` undone."""
        if self.b_dec is not None:
            total = total + scale[:, None] * self.b_dec
        total = self._stretched(total + shift[:, None])
        return total if self.norm_mean is None else total + self.norm_mean

    def decoder_rows(self, indices: Int64[Tensor, "*i"]) -> Float[Tensor, "*i d_in"]:
        """Decoder directions by flat index: an act times its row is what the latent adds to the reconstruction."""
        return self._stretched(self.rows(indices))

    def _stretched(self, rows: Float[Tensor, "*i d_in"]) -> Float[Tensor, "*i d_in"]:
        """Normalised coordinates as raw ones, without the mean."""
        if self.norm_unwhiten is not None:
            return rows @ self.norm_unwhiten
        return rows if self.norm_std is None else rows * self.norm_std

    def _centred(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """Raw activations in the coordinates that all tokens share: standardised, white, or as they are."""
        if self.norm_mean is not None:
            x = x - self.norm_mean
        if self.norm_std is not None:
            x = x / self.norm_std
        return x if self.norm_whiten is None else x @ self.norm_whiten

    def normalize(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch d_in"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Raw activations as they are encoded, and the scale and shift of `Acts` that undo it."""
        x = self._centred(x.to(self.dtype))
        if self.config.normalize == "layer_norm":
            shift = x.mean(-1)
            x = x - shift[:, None]
            scale = (x.square().mean(-1) + LAYER_NORM_EPS).sqrt()
        elif self.config.normalize == "layer_norm_unbiased":
            shift, scale = x.mean(-1), x.std(-1)
            return (x - shift[:, None]) / (scale + LAYER_NORM_EPS)[:, None], scale, shift
        else:
            shift = x.new_zeros(len(x))
            if self.config.normalize == "unit_norm":
                scale = torch.linalg.vector_norm(x, dim=-1) + NORM_EPS
            elif self.norm_scale is not None:
                scale = self.norm_scale.expand(len(x))
            else:
                return x, x.new_ones(len(x)), shift
        return x / scale[:, None], scale, shift

    def extra_repr(self) -> str:
        """Its hyper-parameters, but for those that are as by default: `print(sae)` shows them."""
        given = self.config.model_dump(exclude={"architecture"}, exclude_defaults=True)
        return ", ".join(f"{name}={value!r}" for name, value in given.items())

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> SAEOutput:
        """Encodes and decodes; the reconstruction comes back in the dtype of `x`."""
        acts = self.encode(x)
        return SAEOutput(self.decode(acts).to(x.dtype), acts)

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        """The tensors that make up the artifact, by their name on disk."""
        constants = {name: getattr(self, name) for name in _CONSTANTS}
        found = {name: p.detach() for name, p in self.named_parameters()}
        return found | {name: value for name, value in constants.items() if value is not None}

    def map_weights(self, tensors: Mapping[str, Float[Tensor, "..."]]) -> None:
        """Takes tensors, by their name on disk, in the place of its own without copying them.

        What is stored transposed here becomes a view of what is given.
        """
        for name, tensor in tensors.items():
            own = self._own_name(name)
            mapped = tensor if own == name else tensor.mT
            setattr(self, own, nn.Parameter(mapped, requires_grad=False))

    def leave_stored(
        self,
        names: Iterable[str],
        *,
        read: Callable[[str, Int64[Tensor, " some"], Float[Tensor, "some rows width"]], None],
        check: Callable[[], None],
        room: int = STORED_BYTES,
    ) -> None:
        """Takes mapped tables, by their name on disk, as stored ones: read block by block, of which the last are kept.

        `read` fills a tensor with the blocks of these numbers, as they lie on disk; `check` is called before mapped
        weights are used; both may raise. `room` is for all tables together, in bytes, whose blocks of one parent or
        latent are kept for about as long.
        """
        self._before_use = check
        tables = {name: _as_blocks(getattr(self, self._own_name(name))) for name in names}
        each = sum(table[0].numel() for table in tables.values()) * self.dtype.itemsize
        for name, table in tables.items():
            own = self._own_name(name)
            fill = partial(self._fill, table.shape[1:], partial(read, name), turned=own != name)
            self._stored[own] = StoredTable(len(table), room // each, fill)

    def _fill(
        self,
        shape: torch.Size,
        read: Callable[[Tensor, Tensor], None],
        numbers: Int64[Tensor, " some"],
        *,
        turned: bool,
    ) -> Float[Tensor, "some rows width"]:
        blocks = empty_blocks((len(numbers), *shape), self.dtype)
        read(numbers, blocks.mT if turned else blocks)
        return blocks

    def blocks(
        self, name: str, index: Int64[Tensor, "*i"]
    ) -> tuple[Float[Tensor, "some rows width"], Int64[Tensor, "*i"]]:
        """The table of a parameter's name, and which of its blocks each index means.

        Of one that stays on disk these are copies of the blocks that are asked for.
        """
        if name in self._stored:
            return self._stored[name].take(index)
        return _as_blocks(getattr(self, name)).contiguous(), index

    def _own_name(self, name: str) -> str:
        return name if name in self._parameters else f"{name}_T"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SAE[C]:
        before = {name: getattr(self, name).data_ptr() for name in self._stored}
        nn.Module._apply(self, fn, recurse)  # type: ignore[no-untyped-call]
        for name, mapped in before.items():
            parameter = getattr(self, name)
            if parameter.data_ptr() != mapped:  # moved or converted: in memory now
                parameter.data = parameter.data.contiguous()
                del self._stored[name]
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A copy has its tables in memory."""
        return {**self.__dict__, "_stored": {}, "_before_use": None, "few_tokens": FewTokens()}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights; inputs are cast to it."""
        return next(self.parameters()).dtype


def _as_blocks(table: Float[Tensor, "n ..."]) -> Float[Tensor, "n rows width"]:
    """A table of single rows as blocks of one."""
    return table if table.ndim == 3 else table[:, None]
