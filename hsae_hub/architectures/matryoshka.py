"""Matryoshka SAE (Bussmann et al. 2025, arXiv 2503.17547): nested prefixes of one dictionary each reconstruct alone.

The widths in `prefixes` are cumulative, as `matryoshka_widths` are in SAELens; the `group_sizes` of dictionary_learning
are increments: 512, 1024, 2048 there are 512, 1536, 3584 here.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.architectures.base import SAE, TrainStep
from hsae_hub.architectures.configs.matryoshka import MatryoshkaConfig
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
class MatryoshkaSAE(SAE[MatryoshkaConfig]):
    """The acts of `batch_topk`; the loss is the sum, not weighted, of the squared errors of all prefixes.

    Training keeps the `k · batch` largest of `relu((x - b_dec) W_enc + b_enc)` in a batch, all prefixes together;
    outside training an act stays if it is above `threshold`: the smallest kept act, averaged over training.
    """

    config_class = MatryoshkaConfig
    read_by_rows = ("W_dec",)
    can_accumulate = False
    title = "A Matryoshka sparse autoencoder: nested prefixes of one dictionary, each a dictionary of its own"
    citation = """@misc{bussmann2025learning,
  title = {Learning Multi-Level Features with Matryoshka Sparse Autoencoders},
  author = {Bussmann, Bart and Nabeshima, Noa and Karvonen, Adam and Nanda, Neel},
  year = {2025},
  eprint = {2503.17547},
  archivePrefix = {arXiv}
}"""
    b_enc: Float[Tensor, " d_sae"]
    b_dec: Float[Tensor, " d_in"]
    threshold: Float[Tensor, " d_sae"]
    """The same value for every latent; in the units of a normalised token."""
    tokens_since_fired: Int64[Tensor, " d_sae"]

    def __init__(self, config: MatryoshkaConfig) -> None:
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
        """`reconstruction` is that of the whole dictionary, `prefix_N` that of its first N latents."""
        x, _, _ = self.normalize(x)
        config = self.config
        kept = kept_linear(
            x,
            self.W_enc,
            lambda pre: batch_top_k(pre, config.k),
            bias=self.b_enc,
            centre=self.b_dec,
        )
        acts = kept.values.relu()
        rate = max(config.threshold_rate, 1 / (step.step + 1))
        track_threshold_(self.threshold, acts, rate)
        error, squared = x - self.b_dec, []
        for part in self._parts(acts, kept, len(x)).unbind(1):
            error = error - part
            squared.append(error.square().sum(-1).mean())
        dead = find_dead_(
            self.tokens_since_fired,
            acts,
            kept.latents,
            tokens=len(x),
            dead_after_tokens=config.dead_after_tokens,
            n_steps=step.n_steps,
        )
        aux = error.new_zeros(())
        if config.aux_weight > 0:
            aux = revival_loss(kept.pre, error, dead, self.W_dec)
        prefixes = {f"prefix_{n}": squared[i] for i, n in enumerate(config.prefixes[:-1])}
        loss = torch.stack(squared).sum() + config.aux_weight * aux
        return {"loss": loss, "reconstruction": squared[-1], **prefixes, "aux": aux}

    def _pre_acts(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        return product(x - self.b_dec, self.W_enc, self.b_enc)

    def _parts(
        self, acts: Float[Tensor, " kept"], kept: Listed, batch: int
    ) -> Float[Tensor, "batch prefixes d_in"]:
        """What each prefix adds to the one before it; every decoder row is read once for all of them."""
        groups = len(self.config.prefixes)
        widths = torch.tensor(self.config.prefixes, device=acts.device)
        parts_of = kept.tokens * groups + torch.bucketize(kept.latents, widths, right=True)
        parts = pair_sum(acts, parts_of, kept.latents, self.W_dec, batch * groups)
        return parts.view(batch, groups, self.d_in)
