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
from hsae_hub.ops import entries_linear, normalize_rows_, product


def _paths(
    shared: Float[Tensor, "*entries"],
    b_gate: Float[Tensor, "*entries_or_n"],
    r_mag: Float[Tensor, "*entries_or_n"],
    b_mag: Float[Tensor, "*entries_or_n"],
) -> tuple[Float[Tensor, "*entries"], Float[Tensor, "*entries"]]:
    """The acts, and the pre-activations of the gate, from what both paths share."""
    gate = shared + b_gate
    magnitude = shared * r_mag.exp() + b_mag
    return torch.where(gate > 0, magnitude.relu(), 0), gate


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
    read_by_rows = ("W_dec",)
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
            shared = product(x if self._centre is None else x - self._centre, self.W_enc)
            acts, _ = _paths(shared, self.b_gate, self.r_mag, self.b_mag)
            return nonzero_slots(acts)
        shared, latents = few
        return (shared * self.r_mag[latents].exp() + self.b_mag[latents]).relu(), latents

    def losses(
        self, x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Float[Tensor, ""]]:
        x, _, _ = self.normalize(x)
        closed = -self.b_gate.detach()
        entries = entries_linear(x, self.W_enc, lambda pre: pre > closed, centre=self._centre)
        of = entries.by_latent
        acts, gate = _paths(entries.values, of(self.b_gate), of(self.r_mag), of(self.b_mag))
        open_gate = gate.relu()
        error = x - self.b_dec - entries.decode(acts, self.W_dec)
        fixed = self.W_dec.detach()
        gate_error = x - self.b_dec.detach() - entries.decode(open_gate, fixed)
        reconstruction = error.square().sum(-1).mean()
        l1 = entries.mean(open_gate)
        aux = gate_error.square().sum(-1).mean()
        warmup = self.config.penalty_warmup_steps
        ramp = min(1.0, step.step / warmup) if warmup else 1.0
        return {
            "loss": reconstruction + ramp * self.config.lambda_l1 * l1 + aux,
            "reconstruction": reconstruction,
            "l1": l1,
            "aux": aux,
        }

    @property
    def _centre(self) -> Float[Tensor, " d_in"] | None:
        return self.b_dec if self.config.pre_encoder_bias else None
