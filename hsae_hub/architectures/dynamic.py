"""HierarchicalSAE (anonymous, section 4): a flat SAE whose penalty and latents are managed while it learns.

Resampling follows Bricken et al. 2023, "Towards Monosemanticity", appendix "Neuron Resampling".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor, nn

from hsae_hub.architectures.base import SAE, TrainStep
from hsae_hub.architectures.configs.dynamic import DynamicConfig
from hsae_hub.architectures.latents import nonzero_slots
from hsae_hub.architectures.registry import register
from hsae_hub.ops import collective, normalize_rows_, product, similar_pairs

ALPHA = (0.1, 2.0)
"""Bounds of the adaptive factor (eq. 5)."""
RESAMPLED_NORM = 0.2
"""Norm of a resampled encoder column, as a share of the mean of the others (Bricken et al.)."""
_TINY = 1e-30  # weight of an example without loss: it is drawn last


class _Batch(NamedTuple):
    """What a step's losses leave for the work after its update."""

    x: Float[Tensor, "batch d_in"]
    """Normalised."""
    loss: Float[Tensor, " batch"]
    """Squared error of each token."""
    fired: Int64[Tensor, " d_sae"]
    """Tokens of all processes on which each latent is positive."""
    tokens: int
    """Tokens of all processes."""


@register
class DynamicSAE(SAE[DynamicConfig]):
    """`acts = relu(x W_enc + b_enc)`, `x̂ = acts W_dec + b_dec`, with decoder rows of norm 1 (eq. 1 and 2)."""

    config_class = DynamicConfig
    can_accumulate = False
    can_shard = False
    title = "A flat sparse autoencoder whose latents are resampled and merged while it learns (HierarchicalSAE)"
    b_dec: Float[Tensor, " d_in"]
    fired: Int32[Tensor, "window d_sae"]
    """Ring of the last batches: tokens on which each latent fired."""
    batches_seen: Int64[Tensor, " d_sae"]
    """Batches since each latent's window began."""

    def __init__(self, config: DynamicConfig) -> None:
        super().__init__(config)
        d_in, d_sae = config.d_in, config.d_sae
        self.W_enc = nn.Parameter(torch.empty(d_in, d_sae))
        self.b_enc = nn.Parameter(torch.empty(d_sae))
        self.W_dec = nn.Parameter(torch.empty(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.empty(d_in))
        ring = config.window if config.track else 1
        self.register_buffer("fired", torch.zeros(ring, d_sae, dtype=torch.int32))
        self.register_buffer("batches_seen", torch.zeros(d_sae, dtype=torch.int64))
        self._batch: _Batch | None = None

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Decoder rows uniform on the sphere, the encoder their transpose, biases 0."""
        self.W_dec.normal_(generator=generator)
        normalize_rows_(self.W_dec)
        self.W_enc.copy_(self.W_dec.T)
        self.b_enc.zero_()
        self.b_dec.zero_()

    def reset_counters(self) -> None:
        self.fired.zero_()
        self.batches_seen.zero_()

    def encode_normalized(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch a"], Int64[Tensor, "batch a"]]:
        few = self.few_tokens.above(x, self.W_enc, None, bias=self.b_enc)
        return nonzero_slots(self._acts(x)) if few is None else few

    def losses(
        self, x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Float[Tensor, ""]]:
        x, _, _ = self.normalize(x)
        acts = self._acts(x)
        squares = (x - product(acts, self.W_dec, self.b_dec)).square().sum(-1)
        reconstruction = squares.mean()
        l1 = acts.sum(-1).mean()
        everywhere = collective.mean_over_rows(reconstruction.detach(), len(x))
        weight = self._weight(everywhere, step)
        fired = collective.total((acts > 0).sum(0))
        self._batch = _Batch(x, squares.detach(), fired, collective.total_count(len(x)))
        return {
            "loss": reconstruction + weight * l1,
            "reconstruction": reconstruction,
            "l1": l1,
            "l1_weight": weight,
        }

    @torch.no_grad()
    def after_update(self, step: TrainStep, optimizer: torch.optim.Optimizer) -> None:
        kept = 1 - optimizer.param_groups[0]["lr"] * self.config.weight_decay
        self.W_enc.mul_(kept)
        self.b_enc.mul_(kept)
        super().after_update(step, optimizer)
        batch, self._batch = self._batch, None
        if batch is None:
            return
        free = self._rare(batch, step.step)
        if self.config.merge and (step.step + 1) % self.config.merge_every == 0:
            free[self._merge()] = True
        self._restart(free, batch, step.step, optimizer)

    def _acts(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        return product(x, self.W_enc, self.b_enc).relu()

    def _weight(self, reconstruction: Float[Tensor, ""], step: TrainStep) -> Float[Tensor, ""]:
        """`λ_t α_t` (eq. 3 and 5)."""
        config = self.config
        weight = config.d_sae**-0.5 if config.lambda_0 is None else config.lambda_0
        if config.schedule:
            weight *= 1 - step.step / step.n_steps
        alpha = torch.ones_like(reconstruction)
        if config.adaptive:
            alpha = (config.target_loss / reconstruction).clamp(*ALPHA)
        return weight * alpha

    def _rare(self, batch: _Batch, step: int) -> Bool[Tensor, " d_sae"]:
        """Counts a batch; says which latents are judged after it and fired too rarely (eq. 4)."""
        if not self.config.resample:
            return torch.zeros_like(batch.fired, dtype=torch.bool)
        self.fired[step % len(self.fired)] = batch.fired.int()
        self.batches_seen += 1
        if not self.config.track and (step + 1) % self.config.window != 0:
            return torch.zeros_like(batch.fired, dtype=torch.bool)
        tokens = len(self.fired) * batch.tokens
        rare = self.fired.sum(0) < self.config.min_rate * tokens
        return rare & (self.batches_seen >= self.config.window)

    def _merge(self) -> Int64[Tensor, " merged"]:
        """Averages pairs of latents into the first of each (eq. 7); returns the second ones."""
        first, second = similar_pairs(self.W_dec, self.config.merge_cosine)
        self.W_enc[:, first] = (self.W_enc[:, first] + self.W_enc[:, second]) / 2
        self.b_enc[first] = (self.b_enc[first] + self.b_enc[second]) / 2
        self.W_dec[first] = (self.W_dec[first] + self.W_dec[second]) / 2
        normalize_rows_(self.W_dec)
        return second

    def _restart(
        self,
        free: Bool[Tensor, " d_sae"],
        batch: _Batch,
        step: int,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Points latents at examples, drawn in proportion to their squared loss, and forgets what they were."""
        latents = free.nonzero()[: batch.tokens, 0]  # no example twice; the rest wait
        if len(latents) == 0:
            return
        norms = self.W_enc.norm(dim=0)
        others = norms if bool(free.all()) else norms[~free]
        # seeded by the step: a resumed run draws the same ones
        generator = torch.Generator(batch.x.device).manual_seed(step)
        odds = collective.all_rows(batch.loss).double().square().clamp_min(_TINY)
        chosen = odds.multinomial(len(latents), generator=generator)
        directions = collective.all_rows(batch.x)[chosen]
        normalize_rows_(directions)
        self.W_dec[latents] = directions
        self.W_enc[:, latents] = directions.T * (RESAMPLED_NORM * others.mean())
        self.b_enc[latents] = 0
        for parameter, axis in ((self.W_enc, 1), (self.b_enc, 0), (self.W_dec, 0)):
            for moment in optimizer.state.get(parameter, {}).values():
                if moment.shape == parameter.shape:
                    moment.index_fill_(axis, latents, 0)
        self.batches_seen[latents] = 0  # the ring is all theirs when they are judged again
