"""CompositionalLens (anonymous, sections 4 and 5): tiers of latents, each composed from the acts of the tier before.

The paper's `W1 h1 Wc` (eq. 3) has no consistent shape. Here `h1 Wc` lives in tier 2's latents, where its loss (eq. 5)
needs it, and a basis brings it back to `d_in`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from hsae_hub.architectures.base import SAE, TrainStep
from hsae_hub.architectures.configs.compositional import BATCH_NORM, CompositionalConfig, joint
from hsae_hub.architectures.latents import nonzero_slots
from hsae_hub.architectures.registry import register
from hsae_hub.ops import (
    collective,
    normalize_rows_,
    product,
    project_out_rows_,
    tiers,
    weighted_rows,
)

BN_MOMENTUM = 0.1
"""Weight of a batch in the running statistics (section 4.3)."""
_STATISTICS = BATCH_NORM[:2]
_ONES = ("bn_var", "bn_weight")  # of a latent that nothing is known of; every other entry is 0
_COUNTERS = ("held_back", "window_steps", "fires", "gain")


@register
class CompositionalSAE(SAE[CompositionalConfig]):
    """`h1 = relu(x W1 + b1)`, `h2 = relu((x + (BN(h1) Wc) W2ᵀ) W2 + b2)`, `x̂ = h1 W1ᵀ + h2 W2ᵀ + b_dec` (eq. 2-4).

    Latents are numbered tier by tier. When some move to another tier the tensors change their shape and
    `config.widths` follows: there an artifact keeps the boundary. A training state brings its own widths.
    """

    config_class = CompositionalConfig
    can_accumulate = False
    can_shard = False
    title = "A sparse autoencoder of several tiers, each composed from the acts of the one before (CompositionalLens)"
    b_dec: Float[Tensor, " d_in"]
    held_back: Float[Tensor, " tiers"]
    """Share of each tier's acts that the curriculum still withholds; 0 when training is over."""
    window_steps: Int64[Tensor, ""]
    """Steps since the last reallocation, all tiers taking part in full."""
    fires: Int64[Tensor, " d_sae"]
    """Tokens of these steps on which each latent acted."""
    gain: Float[Tensor, " tiers"]
    """Mean over these steps of the squared error that a token would have more without the tier."""

    def __init__(self, config: CompositionalConfig) -> None:
        super().__init__(config)
        self.tiers = range(len(config.widths))
        self._own_decoders = [] if config.tied else [f"W_dec_{i + 1}" for i in self.tiers]
        self._axes = config.axes()
        for name in self._axes:
            tensor = torch.empty(self._size(name))
            if name.startswith(_STATISTICS):
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor))
        self.b_dec = nn.Parameter(torch.empty(config.d_in))
        self.register_buffer("held_back", torch.zeros(len(self.tiers)))
        self.register_buffer("window_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("fires", torch.zeros(self.d_sae, dtype=torch.int64))
        self.register_buffer("gain", torch.zeros(len(self.tiers)))

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:  # type: ignore[override]
        """All bases side by side: the encoder of the flat view, without what is composed."""
        return torch.cat([self._basis(i) for i in self.tiers], 1)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Section 4.3: Kaiming-normal bases, the identity as composition; own decoders begin along their tier's basis.

        The fan is the tier's width, so that each tied tier alone begins by giving x back, but for its relu's noise.
        """
        for name in self._axes:
            tensor = getattr(self, name)
            if name.startswith("W_c"):
                nn.init.eye_(tensor)
            elif name.startswith("W_dec"):
                tensor.copy_(getattr(self, name.replace("_dec", "")).T)
                normalize_rows_(tensor)
            elif name.startswith("W_"):
                tensor.normal_(0, (2 / tensor.shape[1]) ** 0.5, generator=generator)
            else:
                tensor.fill_(float(name.startswith(_ONES)))
        self.b_dec.zero_()

    def reset_counters(self) -> None:
        for name in _COUNTERS:
            getattr(self, name).zero_()

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        statistics = {name: getattr(self, name) for name in self._axes if name in self._buffers}
        return super().weights() | statistics

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Takes on the widths of the state's tiers first, so that a run resumes after a reallocation."""
        biases = [f"b_{i + 1}" for i in self.tiers]
        self._set_widths([len(state_dict.get(name, getattr(self, name))) for name in biases])
        for name in self._axes:
            tensor = getattr(self, name)
            if tensor.shape != self._size(name):
                tensor.data = tensor.new_empty(self._size(name))
        return super().load_state_dict(state_dict, strict, assign)

    def encode_normalized(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch a"], Int64[Tensor, "batch a"]]:
        acts = self._acts(x, len(self.tiers), training=False)
        return nonzero_slots(torch.cat([(1 - self.held_back[i]) * acts[i] for i in self.tiers], -1))

    def sum_rows(
        self, values: Float[Tensor, "batch a"], indices: Int64[Tensor, "batch a"]
    ) -> Float[Tensor, "batch d_in"]:
        total = values.new_zeros(len(values), self.d_in)
        for inside, places, decoder in self._slices(indices):
            total = total + weighted_rows(torch.where(inside, values, 0), places, decoder)
        return total

    def rows(self, indices: Int64[Tensor, "*i"]) -> Float[Tensor, "*i d_in"]:
        found = self.b_dec.new_zeros(*indices.shape, self.d_in)
        for inside, places, decoder in self._slices(indices):
            found = torch.where(inside[..., None], decoder[places], found)
        return found

    def losses(
        self, x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Float[Tensor, ""]]:
        x, _, _ = self.normalize(x)
        shares = [s for s in tiers.fade_in(step.step / step.n_steps, self.config.starts) if s > 0]
        acts = self._acts(x, len(shares), training=True)
        parts = torch.stack([s * product(acts[i], self._decoder(i)) for i, s in enumerate(shares)])
        error = x - self.b_dec - parts.sum(0)
        sparsity = composition = x.new_zeros(())
        for i, share in enumerate(shares):
            sparsity = sparsity + share * acts[i].sum(-1).mean()
            if i > 0:
                distance = acts[i] - product(acts[i - 1], self._composition(i - 1))
                composition = composition + share * distance.square().sum(-1).mean()
        if sum(shares) == len(self.tiers) and self.config.reallocate_every is not None:
            gain = ((2 * error + parts) * parts).sum(-1).mean(-1)
            self._watch(acts, collective.mean_over_rows(gain, len(x)))
        reconstruction = error.square().sum(-1).mean()
        penalty = self.config.lambda_sparsity * sparsity
        return {
            "loss": reconstruction + penalty + self.config.lambda_composition * composition,
            "reconstruction": reconstruction,
            "sparsity": sparsity,
            "composition": composition,
        }

    def before_update(self) -> None:
        for decoder in map(self.get_parameter, self._own_decoders):
            if decoder.grad is not None:
                project_out_rows_(decoder.grad, decoder)

    def after_update(self, step: TrainStep, optimizer: torch.optim.Optimizer) -> None:
        for decoder in map(self.get_parameter, self._own_decoders):
            normalize_rows_(decoder)
        done, window = step.step + 1, self.config.reallocate_every
        if window is not None and int(self.window_steps) >= window:
            if step.n_steps - done >= window:  # a latent that moves has a window left to learn
                self._reallocate(optimizer)
            self.reset_counters()
        present = tiers.fade_in(done / step.n_steps, self.config.starts)
        self.held_back.copy_(1 - torch.tensor(present))

    @torch.no_grad()
    def report(self, x: Float[Tensor, "tokens d_in"]) -> dict[str, float]:
        """Of each tier, on raw activations: `l0_1`, …; `explained_share_1`, …, its share of what all tiers explain
        beyond the bias; and `composition_coverage_2`, …, the R² of its acts predicted from the tier before by `W_c`.
        """
        acts = self.encode(x)
        bias = self.decode(acts.replace(torch.zeros_like(acts.values))).double()
        apart = [acts.keep(inside) for inside, _, _ in self._slices(acts.indices)]
        parts = torch.stack([self.decode(tier).double() - bias for tier in apart])
        dense = torch.split(acts.dense().double(), list(self.config.widths), -1)
        compositions = [self._composition(i).double() for i in self.tiers[:-1]]
        return tiers.describe_tiers(x.double() - bias, parts, dense, compositions)

    def _acts(
        self, x: Float[Tensor, "batch d_in"], n_tiers: int, *, training: bool
    ) -> list[Float[Tensor, "batch _"]]:
        acts = [product(x, self._basis(0), self.get_parameter("b_1")).relu()]
        for i in range(n_tiers - 1):
            mean, var, weight, bias = (getattr(self, joint(name, i)) for name in BATCH_NORM)
            if training:
                even = tiers.batch_norm_(acts[i], mean, var, weight, bias, BN_MOMENTUM)
            else:
                even = nn.functional.batch_norm(acts[i], mean, var, weight, bias)
            through = self._basis(i + 1 if self.config.compose_through == "second" else i)
            composed = x + product(product(even, self._composition(i)), through.T)
            acts.append(
                product(composed, self._basis(i + 1), self.get_parameter(f"b_{i + 2}")).relu()
            )
        return acts

    def _basis(self, i: int) -> Float[Tensor, "d_in m"]:
        return self.get_parameter(f"W_{i + 1}")

    def _decoder(self, i: int) -> Float[Tensor, "m d_in"]:
        return self._basis(i).T if self.config.tied else self.get_parameter(f"W_dec_{i + 1}")

    def _composition(self, i: int) -> Float[Tensor, "m_before m_after"]:
        return self.get_parameter(joint("W_c", i))

    def _size(self, name: str) -> tuple[int, ...]:
        return self.config.tensors()[name]

    def _set_widths(self, widths: Sequence[int]) -> None:
        self.config = self.config.model_copy(update={"widths": tuple(widths)})

    def _slices(
        self, indices: Int64[Tensor, "*i"]
    ) -> Iterator[tuple[Bool[Tensor, "*i"], Int64[Tensor, "*i"], Float[Tensor, "m d_in"]]]:
        """Of each tier: which of the indices lie in it, their places within it (any where not), and its decoder."""
        ends = accumulate(self.config.widths)
        for i, (width, end) in enumerate(zip(self.config.widths, ends, strict=True)):
            places = indices - (end - width)
            inside = (places >= 0) & (places < width)
            yield inside, places.clamp(0, width - 1), self._decoder(i)

    @torch.no_grad()
    def _watch(self, acts: list[Float[Tensor, "batch _"]], gain: Float[Tensor, " tiers"]) -> None:
        self.window_steps += 1
        self.fires += collective.total(torch.cat([(act > 0).sum(0) for act in acts]))
        self.gain += (gain - self.gain) / self.window_steps

    @torch.no_grad()
    def _reallocate(self, optimizer: torch.optim.Optimizer) -> None:
        """A latent that moves keeps its direction and starts anew in the rest: no bias, composition or moments."""
        to, kept, gone = tiers.plan_moves(self.fires, self.gain, self.config.widths)
        moved = sum(map(len, gone))
        if moved == 0:
            return
        arrivals = {
            f"W_{to + 1}": torch.cat([self._basis(i)[:, gone[i]] for i in self.tiers], 1),
            f"W_dec_{to + 1}": torch.cat([self._decoder(i)[gone[i]] for i in self.tiers]),
        }
        self._set_widths([len(kept[i]) + (moved if i == to else 0) for i in self.tiers])
        for name, axes in self._axes.items():
            places = [None if tier is None else kept[tier] for tier in axes]
            resize = partial(tiers.resize_axes, kept=places, sizes=self._size(name))
            new = resize(getattr(self, name), fill=float(name.startswith(_ONES)))
            if name in arrivals:
                new.narrow(axes.index(to), len(kept[to]), moved).copy_(arrivals[name])
            tiers.replace_tensor_(self, name, new, optimizer, resize)
