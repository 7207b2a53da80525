"""Nested Dictionary Learning (anonymous, sections 3.1 and 4): a small shared dictionary and a specialised one."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.architectures.base import LAYER_NORM_EPS, SAE, TrainStep
from hsae_hub.architectures.configs.nested import NestedConfig
from hsae_hub.architectures.latents import nonzero_slots
from hsae_hub.architectures.registry import register
from hsae_hub.ops import (
    normalize_rows_,
    normalize_together_,
    product,
)


@register
class NestedSAE(SAE[NestedConfig]):
    """`acts = relu(LayerNorm(x W_enc + b_enc))`, `x̂ = acts W_dec + b_dec`; each dictionary has its own layer norm.

    Normalising pre-activations, not acts, lets relu keep its zeros.
    """

    config_class = NestedConfig
    title = "A sparse autoencoder of a small shared dictionary and a specialised one (Nested Dictionary Learning)"
    b_dec: Float[Tensor, " d_in"]
    norm_shared_weight: Float[Tensor, " n_shared"] | None
    norm_shared_bias: Float[Tensor, " n_shared"] | None

    def __init__(self, config: NestedConfig) -> None:
        super().__init__(config)
        d_in, d_sae, n_shared = config.d_in, config.d_sae, config.n_shared
        self.W_enc = nn.Parameter(torch.empty(d_in, d_sae))
        self.b_enc = nn.Parameter(torch.empty(d_sae))
        self.register_parameter("norm_shared_weight", None)
        self.register_parameter("norm_shared_bias", None)
        if n_shared > 0:
            self.norm_shared_weight = nn.Parameter(torch.empty(n_shared))
            self.norm_shared_bias = nn.Parameter(torch.empty(n_shared))
        self.norm_special_weight = nn.Parameter(torch.empty(d_sae - n_shared))
        self.norm_special_bias = nn.Parameter(torch.empty(d_sae - n_shared))
        self.W_dec = nn.Parameter(torch.empty(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.empty(d_in))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Decoder rows uniform on the sphere, the encoder their transpose, biases 0, layer norms the identity."""
        self.W_dec.normal_(generator=generator)
        normalize_rows_(self.W_dec)
        self.W_enc.copy_(self.W_dec.T)
        for bias in (self.b_enc, self.b_dec, self.norm_shared_bias, self.norm_special_bias):
            if bias is not None:
                bias.zero_()
        for weight in (self.norm_shared_weight, self.norm_special_weight):
            if weight is not None:
                weight.fill_(1)

    def encode_normalized(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch a"], Int64[Tensor, "batch a"]]:
        return nonzero_slots(self._acts(x))

    def losses(
        self, x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Float[Tensor, ""]]:
        x, _, _ = self.normalize(x)
        acts = self._acts(x)
        error = x - product(acts, self.W_dec, self.b_dec)
        reconstruction = error.square().sum(-1).mean()
        shared, special = (part.sum(-1).mean() for part in self._parts(acts))
        penalty = self.config.lambda_shared * shared + self.config.lambda_special * special
        return {
            "loss": reconstruction + penalty,
            "reconstruction": reconstruction,
            "l1_shared": shared,
            "l1_special": special,
        }

    def before_update(self) -> None:
        super().before_update()
        normalize_together_([p.grad for p in self.parameters() if p.grad is not None])

    @torch.no_grad()
    def report(self, x: Float[Tensor, "batch d_in"]) -> dict[str, float]:
        """Of each dictionary on raw activations: L0, share of tokens on which a latent fires, explained variance.

        What the dictionaries, or one and the bias, explain together counts half for each (the Shapley value).
        """
        acts = self.encode(x)
        is_shared = acts.indices < self.config.n_shared
        parts = {"shared": acts.keep(is_shared), "special": acts.keep(~is_shared)}
        sizes = {"shared": self.config.n_shared, "special": self.d_sae - self.config.n_shared}
        target = x.double() - x.double().mean(0)
        whole = self.decode(acts).double()
        offset = self.decode(acts.keep(torch.zeros_like(is_shared))).double()
        left = 2 * target - (whole - whole.mean(0))
        found: dict[str, float] = {}
        for name, part in parts.items():
            l0 = float(part.l0().double().mean())
            found[f"{name}_l0"] = l0
            found[f"{name}_rate"] = l0 / max(sizes[name], 1)
            explained = left * (self.decode(part).double() - offset)
            found[f"{name}_explained_variance"] = float(explained.sum() / target.square().sum())
        return found

    def _parts(
        self, latents: Float[Tensor, "batch d_sae"]
    ) -> tuple[Float[Tensor, "batch n_shared"], Float[Tensor, "batch n_special"]]:
        shared, special = latents.tensor_split([self.config.n_shared], -1)
        return shared, special

    def _acts(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        pre = self._parts(product(x, self.W_enc, self.b_enc))
        weights = (self.norm_shared_weight, self.norm_special_weight)
        biases = (self.norm_shared_bias, self.norm_special_bias)
        parts = [
            nn.functional.layer_norm(part, part.shape[-1:], weight, bias, LAYER_NORM_EPS)
            for part, weight, bias in zip(pre, weights, biases, strict=True)
            if weight is not None
        ]
        return torch.cat(parts, -1).relu()
