"""Switch SAE (Mudide et al. 2024, arXiv 2410.08201): a router sends each token to one of many small TopK SAEs."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.architectures.base import SAE, TrainStep
from hsae_hub.architectures.configs.switch import SwitchConfig
from hsae_hub.architectures.registry import register
from hsae_hub.ops import (
    Places,
    collective,
    count_parts,
    found_linear,
    normalize_rows_,
    product,
    top_k,
    weighted_rows,
)


class _Codes(NamedTuple):
    """What a forward pass computes of normalised tokens."""

    values: Float[Tensor, "batch k"]
    indices: Int64[Tensor, "batch k"]
    probabilities: Float[Tensor, "batch n_experts"]
    tokens_per_expert: list[int]


@register
class SwitchSAE(SAE[SwitchConfig]):
    """`p = softmax((x - b_router) W_router)`, `e = argmax p`, `acts = p_e · relu(top_k((x - b_dec) W_enc[e]))`.

    Experts share `b_dec` and have no encoder bias. The probability is part of the acts, so decoding is that of a
    flat SAE; it is also all that the router learns from, beside the load balance.
    """

    config_class = SwitchConfig
    read_by_rows = ("W_dec",)
    can_accumulate = False
    title = "A Switch sparse autoencoder: a router picks one of several TopK experts for each token"
    citation = """@misc{mudide2024efficient,
  title = {Efficient Dictionary Learning with Switch Sparse Autoencoders},
  author = {Mudide, Anish and Engels, Joshua and Michaud, Eric J. and Tegmark, Max and Schroeder de Witt, Christian},
  year = {2024},
  eprint = {2410.08201},
  archivePrefix = {arXiv}
}"""
    b_dec: Float[Tensor, " d_in"]

    def __init__(self, config: SwitchConfig) -> None:
        super().__init__(config)
        d_in, d_sae = config.d_in, config.d_sae
        self.W_enc = nn.Parameter(torch.empty(d_in, d_sae))
        self.W_dec = nn.Parameter(torch.empty(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.empty(d_in))
        self.W_router = nn.Parameter(torch.empty(d_in, config.n_experts))
        self.b_router = nn.Parameter(torch.empty(d_in))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Decoder rows uniform on the sphere, the encoder their transpose; the router as a linear layer's default."""
        self.W_dec.normal_(generator=generator)
        normalize_rows_(self.W_dec)
        self.W_enc.copy_(self.W_dec.T)
        bound = 1 / math.sqrt(self.d_in)
        self.W_router.uniform_(-bound, bound, generator=generator)
        self.b_dec.zero_()
        self.b_router.zero_()

    def encode_normalized(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch k"], Int64[Tensor, "batch k"]]:
        codes = self._codes(x)
        return codes.values, codes.indices

    def losses(
        self, x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Float[Tensor, ""]]:
        """`balance` is 1 when tokens spread evenly over experts, and up to `n_experts` when all go to one."""
        x, _, _ = self.normalize(x)
        codes = self._codes(x)
        error = x - self.b_dec - weighted_rows(codes.values, codes.indices, self.W_dec)
        reconstruction = error.square().sum(-1).mean()
        shares = x.new_tensor(codes.tokens_per_expert) / len(x)
        shares = collective.mean_over_rows(shares, len(x))
        balance = self.config.n_experts * (shares * codes.probabilities.mean(0)).sum()
        weight = self.config.alpha * (self.d_in if self.config.variant == "released" else 1)
        loss = reconstruction + weight * balance
        return {"loss": loss, "reconstruction": reconstruction, "balance": balance}

    def _codes(self, x: Float[Tensor, "batch d_in"]) -> _Codes:
        """Tokens are put in the order of their experts, so that each expert multiplies its own tokens only."""
        experts, width = self.config.n_experts, self.d_sae // self.config.n_experts
        probabilities = ((x - self.b_router) @ self.W_router).softmax(-1)
        probability, expert = probabilities.max(-1)
        counts = count_parts(expert, experts)
        order = expert.argsort(stable=True)
        encoders = self.W_enc.detach().view(self.d_in, experts, width).unbind(1)

        def find(centred: Tensor) -> tuple[Tensor, Places]:
            parts = zip(centred[order].split_with_sizes(counts), encoders, strict=True)
            pre = torch.cat([product(part, encoder) for part, encoder in parts])
            places = top_k(pre, self.config.k)
            latents = places + expert[order][:, None] * width
            tokens = order.repeat_interleave(self.config.k)
            return pre.gather(-1, places).flatten(), Places(tokens, latents.flatten())

        values, places = found_linear(x, self.W_enc, find, centre=self.b_dec)
        back = order.argsort()
        values, indices = (
            part.view(len(x), self.config.k)[back] for part in (values, places.latents)
        )
        return _Codes(values.relu() * probability[:, None], indices, probabilities, counts)
