"""ReLU SAE with an L1 penalty: the flat baseline of the group, nested and dynamic papers."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.architectures.base import SAE, TrainStep
from hsae_hub.architectures.configs.l1 import L1Config
from hsae_hub.architectures.latents import nonzero_slots
from hsae_hub.architectures.registry import register
from hsae_hub.ops import entries_linear, normalize_rows_, product


@register
class L1SAE(SAE[L1Config]):
    """`acts = relu((x - b_dec) W_enc + b_enc)`, `x̂ = acts W_dec + b_dec`, with decoder rows of norm 1."""

    config_class = L1Config
    title = "A flat ReLU sparse autoencoder with an L1 penalty"
    read_by_rows = ("W_dec",)
    b_dec: Float[Tensor, " d_in"]

    def __init__(self, config: L1Config) -> None:
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
        few = self.few_tokens.above(x, self.W_enc, None, bias=self.b_enc, centre=self._centre)
        return nonzero_slots(self._acts(x)) if few is None else few

    def losses(
        self, x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Float[Tensor, ""]]:
        x, _, _ = self.normalize(x)
        entries = entries_linear(
            x, self.W_enc, lambda pre: pre > 0, bias=self.b_enc, centre=self._centre
        )
        acts = entries.values.relu()
        error = x - self.b_dec - entries.decode(acts, self.W_dec)
        reconstruction = error.square().sum(-1).mean()
        l1 = entries.mean(acts)
        warmup = self.config.penalty_warmup_steps
        ramp = min(1.0, step.step / warmup) if warmup else 1.0
        return {
            "loss": reconstruction + ramp * self.config.lambda_l1 * l1,
            "reconstruction": reconstruction,
            "l1": l1,
        }

    def _acts(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        centred = x if self._centre is None else x - self._centre
        return product(centred, self.W_enc, self.b_enc).relu()

    @property
    def _centre(self) -> Float[Tensor, " d_in"] | None:
        return self.b_dec if self.config.pre_encoder_bias else None
