"""BatchTopK SAE (Bussmann et al. 2024, arXiv 2412.06410): k acts a token on average, shared out over the batch."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.architectures.base import SAE, TrainStep
from hsae_hub.architectures.configs.batch_topk import BatchTopKConfig
from hsae_hub.architectures.latents import nonzero_slots
from hsae_hub.architectures.registry import register
from hsae_hub.ops import (
    batch_top_k,
    find_dead_,
    kept_linear,
    normalize_rows_,
    pair_sum,
    product,
    revival_loss,
    track_threshold_,
)
from hsae_hub.ops.kept_linear import Listed


@register
class BatchTopKSAE(SAE[BatchTopKConfig]):
    """`acts = relu((x - b_dec) W_enc + b_enc)`, of which training keeps the `k · batch` largest of a batch.

    A token alone has no batch, so outside training an act stays if it is above `threshold`: the smallest kept act,
    averaged over training.
    """

    config_class = BatchTopKConfig
    read_by_rows = ("W_dec",)
    can_accumulate = False
    title = "A flat BatchTopK sparse autoencoder"
    citation = """@misc{bussmann2024batchtopk,
  title = {BatchTopK Sparse Autoencoders},
  author = {Bussmann, Bart and Leask, Patrick and Nanda, Neel},
  year = {2024},
  eprint = {2412.06410},
  archivePrefix = {arXiv}
}"""
    b_enc: Float[Tensor, " d_sae"]
    b_dec: Float[Tensor, " d_in"]
    threshold: Float[Tensor, " d_sae"]
    """The same value for every latent; in the units of a normalised token."""
    tokens_since_fired: Int64[Tensor, " d_sae"]

    def __init__(self, config: BatchTopKConfig) -> None:
        super().__init__(config)
        d_in, d_sae = config.d_in, config.d_sae
        self.W_enc = nn.Parameter(torch.empty(d_in, d_sae))
        self.W_dec = nn.Parameter(torch.empty(d_sae, d_in))
        self.b_enc = nn.Parameter(torch.empty(d_sae))
        self.b_dec = nn.Parameter(torch.empty(d_in))
        self.register_buffer("threshold", torch.zeros(d_sae))
        self.register_buffer("tokens_since_fired", torch.zeros(d_sae, dtype=torch.int64))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Decoder rows uniform on the sphere, the encoder their transpose (Gao et al. 2024, A.1)."""
        self.W_dec.normal_(generator=generator)
        normalize_rows_(self.W_dec)
        self.W_enc.copy_(self.W_dec.T)
        for zero in (self.b_enc, self.b_dec, self.threshold):
            zero.zero_()

    def reset_counters(self) -> None:
        self.tokens_since_fired.zero_()

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        return super().weights() | {"threshold": self.threshold}

    def encode_normalized(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch a"], Int64[Tensor, "batch a"]]:
        few = self.few_tokens.above(
            x, self.W_enc, self.threshold, bias=self.b_enc, centre=self.b_dec
        )
        if few is not None:
            return few[0].relu(), few[1]
        acts = self._pre_acts(x).relu()
        return nonzero_slots(torch.where(acts > self.threshold, acts, 0))

    def losses(
        self, x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Float[Tensor, ""]]:
        x, _, _ = self.normalize(x)
        config, batch = self.config, len(x)
        pre, values, tokens, latents = self._kept(x)
        values = values.relu()
        track_threshold_(self.threshold, values, max(config.threshold_rate, 1 / (step.step + 1)))
        error = x - self.b_dec - pair_sum(values, tokens, latents, self.W_dec, batch)
        reconstruction = error.square().sum(-1).mean()
        dead = find_dead_(
            self.tokens_since_fired,
            values,
            latents,
            tokens=batch,
            dead_after_tokens=config.dead_after_tokens,
            n_steps=step.n_steps,
        )
        aux = error.new_zeros(())
        if config.aux_weight > 0:
            aux = revival_loss(pre, error, dead, self.W_dec)
        loss = reconstruction + config.aux_weight * aux
        return {"loss": loss, "reconstruction": reconstruction, "aux": aux}

    def _pre_acts(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        return product(x - self.b_dec, self.W_enc, self.b_enc)

    def _kept(self, x: Float[Tensor, "batch d_in"]) -> Listed:
        """The pre-activations, and the largest of the batch."""
        k = self.config.k
        return kept_linear(
            x, self.W_enc, lambda pre: batch_top_k(pre, k), bias=self.b_enc, centre=self.b_dec
        )
