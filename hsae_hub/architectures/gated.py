"""Gated SAE (Rajamanoharan et al. 2024, arXiv 2404.16014): one path decides which latents act, another how strongly."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.architectures.base import SAE, TrainStep
from hsae_hub.architectures.configs.gated import GatedConfig
from hsae_hub.architectures.latents import nonzero_slots
from hsae_hub.architectures.registry import register
from hsae_hub.ops import normalize_rows_, product


@register
class GatedSAE(SAE[GatedConfig]):
    """`acts = [gate > 0] · relu(magnitude)`, `x̂ = acts W_dec + b_dec`.

    Both paths share an encoder: with `v = (x - b_dec) W_enc`, `gate = v + b_gate` and `magnitude = v e^r_mag + b_mag`.
    No gradient passes the gate's step, so the gate learns from its own reconstruction, through a decoder that is not
    moved by it (section 3.2).
    """

    config_class = GatedConfig
    title = "A flat gated sparse autoencoder"
    citation = """@misc{rajamanoharan2024improving,
  title = {Improving Dictionary Learning with Gated Sparse Autoencoders},
  author = {Rajamanoharan, Senthooran and others},
  year = {2024},
  eprint = {2404.16014},
  archivePrefix = {arXiv}
}"""
    b_dec: Float[Tensor, " d_in"]

    def __init__(self, config: GatedConfig) -> None:
        super().__init__(config)
        d_in, d_sae = config.d_in, config.d_sae
        self.W_enc = nn.Parameter(torch.empty(d_in, d_sae))
        self.b_gate = nn.Parameter(torch.empty(d_sae))
        self.b_mag = nn.Parameter(torch.empty(d_sae))
        self.r_mag = nn.Parameter(torch.empty(d_sae))
        self.W_dec = nn.Parameter(torch.empty(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.empty(d_in))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Decoder rows uniform on the sphere, the encoder their transpose, the rest 0: gate and magnitude agree."""
        self.W_dec.normal_(generator=generator)
        normalize_rows_(self.W_dec)
        self.W_enc.copy_(self.W_dec.T)
        for vector in (self.b_gate, self.b_mag, self.r_mag, self.b_dec):
            vector.zero_()

    def encode_normalized(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch a"], Int64[Tensor, "batch a"]]:
        few = self.few_tokens.above(
            x, self.W_enc, -self.b_gate, centre=self._centre, empty=-math.inf
        )
        if few is None:
            return nonzero_slots(self._paths(x)[0])
        shared, latents = few
        return (shared * self.r_mag[latents].exp() + self.b_mag[latents]).relu(), latents

    def losses(
        self, x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Float[Tensor, ""]]:
        x, _, _ = self.normalize(x)
        acts, gate = self._paths(x)
        open_gate = gate.relu()
        error = x - product(acts, self.W_dec, self.b_dec)
        gate_error = x - product(open_gate, self.W_dec.detach(), self.b_dec.detach())
        reconstruction = error.square().sum(-1).mean()
        l1 = open_gate.sum(-1).mean()
        aux = gate_error.square().sum(-1).mean()
        warmup = self.config.penalty_warmup_steps
        ramp = min(1.0, step.step / warmup) if warmup else 1.0
        return {
            "loss": reconstruction + ramp * self.config.lambda_l1 * l1 + aux,
            "reconstruction": reconstruction,
            "l1": l1,
            "aux": aux,
        }

    def _paths(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch d_sae"], Float[Tensor, "batch d_sae"]]:
        """The acts, and the pre-activations of the gate."""
        centred = x if self._centre is None else x - self._centre
        shared = product(centred, self.W_enc)
        gate = shared + self.b_gate
        magnitude = shared * self.r_mag.exp() + self.b_mag
        return torch.where(gate > 0, magnitude.relu(), 0), gate

    @property
    def _centre(self) -> Float[Tensor, " d_in"] | None:
        return self.b_dec if self.config.pre_encoder_bias else None
