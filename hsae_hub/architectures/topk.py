"""TopK SAE (Gao et al. 2024, arXiv 2406.04093): the k largest pre-activations, with AuxK for dead latents."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.architectures.base import SAE, TrainStep
from hsae_hub.architectures.configs.topk import TopKConfig
from hsae_hub.architectures.registry import register
from hsae_hub.ops import (
    find_dead_,
    normalize_rows_,
    revival_loss,
    top_k,
    topk_linear,
    weighted_rows,
)
from hsae_hub.ops.kept_linear import Kept


@register
class TopKSAE(SAE[TopKConfig]):
    """`acts = relu(top_k((x - b_dec) W_enc + b_enc))`, `x̂ = acts W_dec + b_dec` (Gao et al. 2024, eq. 3)."""

    config_class = TopKConfig
    read_by_rows = ("W_dec",)
    title = "A flat TopK sparse autoencoder"
    citation = """@misc{gao2024scaling,
  title = {Scaling and evaluating sparse autoencoders},
  author = {Gao, Leo and la Tour, Tom Dupr{\\'e} and Tillman, Henk and Goh, Gabriel and Troll, Rajan and
            Radford, Alec and Sutskever, Ilya and Leike, Jan and Wu, Jeffrey},
  year = {2024},
  eprint = {2406.04093},
  archivePrefix = {arXiv}
}"""
    b_enc: Float[Tensor, " d_sae"] | None
    tokens_since_fired: Int64[Tensor, " d_sae"]

    def __init__(self, config: TopKConfig) -> None:
        super().__init__(config)
        d_in, d_sae = config.d_in, config.d_sae
        self.W_enc = nn.Parameter(torch.empty(d_in, d_sae))
        self.W_dec = nn.Parameter(torch.empty(d_sae, d_in))
        self.register_parameter("b_enc", None)
        if config.bias:
            self.b_enc = nn.Parameter(torch.empty(d_sae))
            self.b_dec = nn.Parameter(torch.empty(d_in))
        self.register_buffer("tokens_since_fired", torch.zeros(d_sae, dtype=torch.int64))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Decoder rows uniform on the sphere, the encoder their transpose (Gao et al. 2024, A.1)."""
        self.W_dec.normal_(generator=generator)
        normalize_rows_(self.W_dec)
        self.W_enc.copy_(self.W_dec.T)
        for bias in (self.b_enc, self.b_dec):
            if bias is not None:
                bias.zero_()

    def reset_counters(self) -> None:
        self.tokens_since_fired.zero_()

    def encode_normalized(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch k"], Int64[Tensor, "batch k"]]:
        few = self.few_tokens.top_k(
            x, self.W_enc, self.config.k, bias=self.b_enc, centre=self._centre
        )
        values, indices = self._encoded(x)[1:] if few is None else few
        return values.relu(), indices

    def losses(
        self, x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Float[Tensor, ""]]:
        x, _, _ = self.normalize(x)
        pre, values, indices = self._encoded(x)
        values = values.relu()
        error = x - self._add_bias(weighted_rows(values, indices, self.W_dec))
        reconstruction = error.square().sum(-1).mean()
        dead = find_dead_(
            self.tokens_since_fired,
            values,
            indices,
            tokens=len(x),
            dead_after_tokens=self.config.dead_after_tokens,
            n_steps=step.n_steps * step.microbatches,
        )
        aux = error.new_zeros(())
        if self.config.aux_weight > 0:
            aux = revival_loss(pre, error, dead, self.W_dec)
        return {
            "loss": reconstruction + self.config.aux_weight * aux,
            "reconstruction": reconstruction,
            "aux": aux,
        }

    def _encoded(self, x: Float[Tensor, "batch d_in"]) -> Kept:
        return topk_linear(
            x,
            self.W_enc,
            lambda pre: top_k(pre, self.config.k),
            bias=self.b_enc,
            centre=self._centre,
        )

    @property
    def _centre(self) -> Float[Tensor, " d_in"] | None:
        return self.b_dec if self.config.pre_encoder_bias else None

    def _add_bias(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        return x if self.b_dec is None else x + self.b_dec
