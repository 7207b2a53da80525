"""JumpReLU SAE (Rajamanoharan et al. 2024, arXiv 2407.14435), trained as Gemma Scope was (Lieberum et al. 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.architectures.base import SAE, TrainStep
from hsae_hub.architectures.configs.jumprelu import JumpReLUConfig
from hsae_hub.architectures.latents import nonzero_slots
from hsae_hub.architectures.registry import register
from hsae_hub.ops import entries_linear, jump_relu, normalize_rows_, product, step_through


@register
class JumpReLUSAE(SAE[JumpReLUConfig]):
    """`acts = pre · [pre > threshold]` with `pre = (x - b_dec) W_enc + b_enc`, `x̂ = acts W_dec + b_dec`.

    The optimiser moves the logarithm of a threshold, as in the paper, so it stays positive; the parameter and what is
    on disk is the threshold itself.
    """

    config_class = JumpReLUConfig
    title = "A flat JumpReLU sparse autoencoder"
    citation = """@misc{rajamanoharan2024jumping,
  title = {Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse Autoencoders},
  author = {Rajamanoharan, Senthooran and others},
  year = {2024},
  eprint = {2407.14435},
  archivePrefix = {arXiv}
}"""
    read_by_rows = ("W_dec",)
    b_dec: Float[Tensor, " d_in"]
    _threshold_before: Float[Tensor, " d_sae"] | None = None

    def __init__(self, config: JumpReLUConfig) -> None:
        super().__init__(config)
        d_in, d_sae = config.d_in, config.d_sae
        self.W_enc = nn.Parameter(torch.empty(d_in, d_sae))
        self.b_enc = nn.Parameter(torch.empty(d_sae))
        self.threshold = nn.Parameter(torch.empty(d_sae))
        self.W_dec = nn.Parameter(torch.empty(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.empty(d_in))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Decoder rows uniform on the sphere, the encoder their transpose, biases 0, thresholds alike."""
        self.W_dec.normal_(generator=generator)
        normalize_rows_(self.W_dec)
        self.W_enc.copy_(self.W_dec.T)
        self.b_enc.zero_()
        self.b_dec.zero_()
        self.threshold.fill_(self.config.init_threshold)

    def encode_normalized(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch a"], Int64[Tensor, "batch a"]]:
        few = self.few_tokens.above(
            x, self.W_enc, self.threshold, bias=self.b_enc, centre=self._centre
        )
        if few is not None:
            return few
        pre = self._pre_acts(x)
        return nonzero_slots(torch.where(pre > self.threshold, pre, 0))

    def losses(
        self, x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Float[Tensor, ""]]:
        x, _, _ = self.normalize(x)
        least = self.threshold.detach() - self.config.bandwidth  # further below nothing moves
        entries = entries_linear(
            x, self.W_enc, lambda pre: pre > least, bias=self.b_enc, centre=self._centre
        )
        threshold = entries.by_latent(self.threshold)
        active = step_through(entries.values, threshold, self.config.bandwidth)
        acts = jump_relu(entries.values, active, threshold)
        error = x - self.b_dec - entries.decode(acts, self.W_dec)
        reconstruction = error.square().sum(-1).mean()
        l0 = entries.mean(active)
        warmup = self.config.penalty_warmup_steps
        ramp = min(1.0, step.step / warmup) if warmup else 1.0
        return {
            "loss": reconstruction + ramp * self.config.lambda_l0 * l0,
            "reconstruction": reconstruction,
            "l0": l0,
        }

    @torch.no_grad()
    def before_step(self) -> None:
        """Turns the thresholds' gradient into that of their logarithm."""
        if self.threshold.grad is not None:
            self.threshold.grad.mul_(self.threshold)
            self._threshold_before = self.threshold.clone()

    @torch.no_grad()
    def after_step(self, lr: float) -> None:
        """Takes what the optimiser added to a threshold as a step of its logarithm."""
        if self._threshold_before is not None:
            step_of_log = self.threshold - self._threshold_before
            self.threshold.copy_(self._threshold_before * step_of_log.exp())
            self._threshold_before = None

    def _pre_acts(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        centred = x if self._centre is None else x - self._centre
        return product(centred, self.W_enc, self.b_enc)

    @property
    def _centre(self) -> Float[Tensor, " d_in"] | None:
        return self.b_dec if self.config.pre_encoder_bias else None
