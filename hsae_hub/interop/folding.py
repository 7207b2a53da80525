"""A flat SAE as other toolkits can hold it: whatever is the same for all tokens in the weights themselves.

Everything here is exact algebra, in float64, and nothing is done where there is nothing to fold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.architectures import SAE

FLAT = ("l1", "topk", "jumprelu", "gated", "batch_topk", "matryoshka")
"""Architectures that other toolkits have too."""
_PER_TOKEN = ("unit_norm", "layer_norm", "layer_norm_unbiased")


class Flat(NamedTuple):
    """Weights of a flat SAE that reads raw activations, after at most one normalisation token by token."""

    W_enc: Float[Tensor, "d_in d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]
    vectors: dict[str, Float[Tensor, " d_sae"]]
    """Whichever the architecture has of `b_enc`, `b_gate`, `b_mag`, `r_mag` and `threshold`."""
    pre_encoder_bias: bool
    """Whether `b_dec` is taken away before encoding."""
    per_token: str
    """`none`, `unit_norm`, `layer_norm` or `layer_norm_unbiased`, as in `architectures.NORMALIZE`."""

    def scaled(self, by: float) -> Flat:
        """The same SAE for normalised activations that are `by` times as large; acts grow alike."""
        if by == 1:
            return self
        vectors = {n: v if n == "r_mag" else v * by for n, v in self.vectors.items()}
        return self._replace(b_dec=self.b_dec * by, vectors=vectors)

    def with_pre_encoder_bias(self, wanted: bool) -> Flat:
        """The same SAE, that takes away `b_dec` before encoding or does not."""
        if wanted == self.pre_encoder_bias:
            return self
        moved = _product(self.b_dec, self.W_enc)
        return self._replace(
            pre_encoder_bias=wanted, vectors=_shifted(self.vectors, moved if wanted else -moved)
        )


def folded(sae: SAE[Any]) -> Flat | None:
    """The weights of a flat SAE; None where whitening comes before a normalisation of each token."""
    config = sae.config
    assert config.architecture in FLAT
    weights = sae.weights()
    zeros = sae.W_enc.new_zeros(sae.d_sae)
    names = ("b_enc", "b_gate", "b_mag", "r_mag", "threshold")
    vectors = {name: weights[name] for name in names if name in weights}
    if config.architecture == "topk":
        vectors.setdefault("b_enc", zeros)
    b_dec = weights.get("b_dec", sae.W_enc.new_zeros(sae.d_in))
    per_token = config.normalize if config.normalize in _PER_TOKEN else "none"
    pre = bool(getattr(config, "pre_encoder_bias", True))
    flat = Flat(weights["W_enc"], weights["W_dec"], b_dec, vectors, pre, per_token)
    if sae.norm_scale is not None:
        flat = flat.scaled(float(sae.norm_scale))
    if sae.norm_mean is None:
        return flat
    if per_token != "none":
        return None
    return _uncentred(sae, flat, sae.norm_mean)


def _uncentred(sae: SAE[Any], flat: Flat, mean: Float[Tensor, " d_in"]) -> Flat:
    """Takes mean and standard deviation or covariance of activations into the weights."""
    if sae.norm_whiten is not None and sae.norm_unwhiten is not None:
        forth, back = sae.norm_whiten, sae.norm_unwhiten
    else:
        assert sae.norm_std is not None
        forth, back = torch.diag(1 / sae.norm_std.double()), torch.diag(sae.norm_std.double())
    flat = flat._replace(
        W_enc=_product(forth, flat.W_enc).to(flat.W_enc),
        W_dec=_product(flat.W_dec, back).to(flat.W_dec),
        b_dec=(_product(flat.b_dec, back) + mean.double()).to(flat.b_dec),
    )
    if flat.pre_encoder_bias:
        return flat
    return flat._replace(vectors=_shifted(flat.vectors, -_product(mean, flat.W_enc)))


def _product(left: Tensor, right: Tensor) -> Tensor:
    return left.double() @ right.double()


def _shifted(vectors: dict[str, Tensor], by: Float[Tensor, " d_sae"]) -> dict[str, Tensor]:
    """Adds to the encoder's pre-activations, on both paths of a gated SAE."""
    stretch = vectors["r_mag"].double().exp() if "r_mag" in vectors else 1.0
    moves = {"b_enc": by, "b_gate": by, "b_mag": by * stretch}
    return {
        name: (value.double() + moves[name]).to(value) if name in moves else value
        for name, value in vectors.items()
    }
