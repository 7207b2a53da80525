"""Hierarchical Feature Groups (anonymous, sections 4 and 5): each group of latents pays more for its acts."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.architectures.base import SAE, TrainStep
from hsae_hub.architectures.configs.group import GroupConfig
from hsae_hub.architectures.latents import nonzero_slots
from hsae_hub.architectures.registry import register
from hsae_hub.ops import entries_linear, group_factors, normalize_rows_, product

ACTIVE = 1e-4
"""A latent with a larger mean act counts as an active feature (section 5.3)."""


@register
class GroupSAE(SAE[GroupConfig]):
    """`acts = relu(x W_enc + b_enc)`, `x̂ = acts W_dec + b_dec`; group `g` pays `λ γ^(g-1)` for each unit of act."""

    config_class = GroupConfig
    title = "A flat sparse autoencoder whose later groups of latents pay more (Hierarchical Feature Groups)"
    read_by_rows = ("W_dec",)
    scales_latents = True
    b_dec: Float[Tensor, " d_in"]

    def __init__(self, config: GroupConfig) -> None:
        super().__init__(config)
        d_in, d_sae = config.d_in, config.d_sae
        self.W_enc = nn.Parameter(torch.empty(d_in, d_sae))
        self.b_enc = nn.Parameter(torch.empty(d_sae))
        self.W_dec = nn.Parameter(torch.empty(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.empty(d_in))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Decoder rows uniform on the sphere, the encoder their transpose, biases 0."""
        self.W_dec.normal_(generator=generator)
        normalize_rows_(self.W_dec)
        self.W_enc.copy_(self.W_dec.T)
        self.b_enc.zero_()
        self.b_dec.zero_()

    def encode_normalized(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch a"], Int64[Tensor, "batch a"]]:
        few = self.few_tokens.above(x, self.W_enc, None, bias=self.b_enc)
        return nonzero_slots(self._acts(x)) if few is None else few

    def losses(
        self, x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Float[Tensor, ""]]:
        x, _, _ = self.normalize(x)
        entries = entries_linear(x, self.W_enc, lambda pre: pre > 0, bias=self.b_enc)
        acts = entries.values.relu()
        error = x - self.b_dec - entries.decode(acts, self.W_dec)
        reconstruction = error.square().sum(-1).mean()
        l1 = entries.mean(acts, self._prices())
        return {
            "loss": reconstruction + self.config.lambda_l1 * l1,
            "reconstruction": reconstruction,
            "l1": l1,
        }

    def latent_factors(self, squares: Float[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
        if self.config.group_clip_norm is None:
            return torch.ones_like(squares)
        return group_factors(squares, self.config.n_groups, self.config.group_clip_norm)

    @torch.no_grad()
    def after_step(self, lr: float) -> None:
        kept = 1 - lr * self.config.weight_decay
        self.W_enc.mul_(kept)
        self.b_enc.mul_(kept)

    @torch.no_grad()
    def report(self, x: Float[Tensor, "batch d_in"]) -> dict[str, float]:
        """Of each group on raw activations, all in their units: share of acts above 0, their mean, active features."""
        found: dict[str, float] = {}
        groups = self.encode(x).dense().tensor_split(self.config.n_groups, -1)
        for number, acts in enumerate(groups, start=1):
            fired = acts > 0
            intensity = acts.sum() / fired.sum().clamp_min(1)
            found[f"group_{number}_rate"] = float(fired.double().mean())
            found[f"group_{number}_intensity"] = float(intensity)
            found[f"group_{number}_active"] = float((acts.mean(0) > ACTIVE).sum())
        return found

    def _acts(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        return product(x, self.W_enc, self.b_enc).relu()

    def _prices(self) -> Float[Tensor, " d_sae"]:
        """`γ^(g-1)` of each latent in group `g`."""
        groups = enumerate(self.b_enc.detach().tensor_split(self.config.n_groups))
        return torch.cat([torch.full_like(group, self.config.gamma**g) for g, group in groups])
