"""What the hyper-parameters of every architecture have in common."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, PositiveInt, model_validator

from hsae_hub.architectures.shape import TreeShape

Normalize = Literal[
    "none", "unit_norm", "layer_norm", "layer_norm_unbiased", "standardize", "mean_norm"
]
NORMALIZE: dict[Normalize, str] = {
    "none": "nothing",
    "unit_norm": "x / ‖x‖, token by token (Muchane et al. 2025)",
    "layer_norm": "(x - mean) / std over its dimensions, token by token (the Hierarchical Feature Groups paper)",
    "layer_norm_unbiased": "(x - mean) / (std + 1e-5) with the std over n - 1, as OpenAI's code and SAELens have it",
    "standardize": "(x - mean) / std of each dimension, from a sample (the HierarchicalSAE paper)",
    "mean_norm": "x / c with one c for all tokens, from a sample, so that E‖x‖ = √d_in",
}
"""What each way of normalising does to an activation."""


_MOST = 2**31
"""Largest number of anything: the sizes of tensors, products of a few of them, still mean something to torch."""

Shapes = dict[str, tuple[int, ...]]
"""Shapes of tensors by their names."""


def encoder_and_decoder(d_in: int, d_sae: int) -> Shapes:
    """The weights that a flat SAE has, whatever else it has."""
    return {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}


class SAEConfig(BaseModel, frozen=True, extra="forbid"):
    """Hyper-parameters of an architecture. A subclass adds its own and fixes `architecture`."""

    architecture: str
    d_in: PositiveInt
    """Width of the activations."""
    normalize: Normalize = "none"
    """What is done to a token's activation before encoding; undone after decoding (see `NORMALIZE`)."""
    whiten: bool = False
    """Whether activations are whitened before that: (x - mean) Σ^(-1/2), with the covariance Σ of a sample. On rows of
    an unembedding it is the causal inner product (Muchane et al. 2025, appendix B.1)."""

    @model_validator(mode="after")
    def _of_this_world(self) -> SAEConfig:
        for name, value in self:
            if isinstance(value, int) and value > _MOST:
                raise ValueError(f"{name} must be at most {_MOST}")
        return self

    @model_validator(mode="after")
    def _one_mean(self) -> SAEConfig:
        if self.whiten and self.normalize == "standardize":
            raise ValueError(
                "whiten and normalize: standardize both set mean and std; leave one out"
            )
        return self

    def shape(self) -> TreeShape:
        """How many parents and children there are."""
        raise NotImplementedError

    def tensors(self) -> Shapes:
        """What its `sae.safetensors` holds: here the constants of normalising, to which a subclass adds its weights.

        Only files of this package's architectures are compared with it; those of others with the module that is built.
        """
        d = self.d_in
        found: Shapes = {}
        if self.normalize == "standardize":
            found |= {"norm_mean": (d,), "norm_std": (d,)}
        elif self.normalize == "mean_norm":
            found |= {"norm_scale": ()}
        if self.whiten:
            found |= {"norm_mean": (d,), "norm_whiten": (d, d), "norm_unwhiten": (d, d)}
        return found
