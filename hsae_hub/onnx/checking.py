"""Compares ONNX graphs in onnxruntime with the SAE in torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from hsae_hub.architectures import SAE, Acts
from hsae_hub.errors import CheckFailedError

LIMIT = 1e-4
"""Largest difference, as a fraction of the largest value of its kind in the batch."""
OTHER_LATENTS = 0.05
"""Share of tokens that may have other active latents: an act at a threshold falls on either side of it by rounding."""
_TOKENS = 64
_SIZES = ("norm_scale", "norm_unwhiten", "norm_std", "norm_mean")

Array = Shaped[np.ndarray, "..."]


class Check(NamedTuple):
    """How far the graphs are from torch."""

    acts: float
    """Largest difference of an act, as a fraction of the batch's largest, on tokens with the same active latents."""
    reconstruction: float
    """The same for the reconstruction."""
    tokens: int
    other_latents: int
    """Tokens with other active latents than in torch."""


def check(sae: SAE[Any], folder: Path) -> Check:
    """Runs `encode.onnx`, `decode.onnx` and `full.onnx` of a folder on random tokens and some of real scale.

    Torch computes in float32 as the graphs do, also with weights of 16 bits, or in float64 if these are that.

    Raises:
        CheckFailedError: a difference is above its limit.
    """
    encode, decode, full = (_Session(folder / f"{n}.onnx") for n in ("encode", "decode", "full"))
    if sae.dtype not in (torch.float32, torch.float64):
        sae = copy.deepcopy(sae).float()
    found = []
    for x in _tokens(sae):
        with torch.no_grad():
            out = sae(x.to(sae.device, sae.dtype))
        wanted, sae_out = out.acts, _numpy(out.sae_out)
        values, indices, _, _ = encode(_numpy(x))
        acts, other = _acts_apart(values, indices, wanted)
        parts = (wanted.values, wanted.indices, wanted.scale, wanted.shift)
        (decoded,) = decode(*map(_numpy, parts))
        reconstructed, full_values, full_indices, *_ = full(_numpy(x))
        full_acts, full_other = _acts_apart(full_values, full_indices, wanted)
        other |= full_other
        apart = [
            np.abs(decoded - sae_out).max(),
            np.abs(reconstructed - sae_out)[~other].max(initial=0),
        ]
        found.append(
            Check(
                max(acts, full_acts) / _largest(_numpy(wanted.values)),
                float(max(apart)) / _largest(sae_out),
                len(x),
                int(other.sum()),
            )
        )
    return judge(found)


def judge(found: Sequence[Check]) -> Check:
    """The worst of several checks.

    Raises:
        CheckFailedError: it is above a limit, or not a number.
    """
    worst = Check(
        max(one.acts for one in found),
        max(one.reconstruction for one in found),
        sum(one.tokens for one in found),
        sum(one.other_latents for one in found),
    )
    if not all(one.acts <= LIMIT and one.reconstruction <= LIMIT for one in found):  # nan neither
        raise CheckFailedError(
            f"the ONNX graphs differ from torch: acts by {worst.acts:.1e}, reconstruction by "
            f"{worst.reconstruction:.1e} of the largest value; at most {LIMIT:.0e} is accepted"
        )
    if worst.other_latents > OTHER_LATENTS * worst.tokens:
        raise CheckFailedError(
            f"the ONNX graphs have other active latents than torch on {worst.other_latents} of {worst.tokens} tokens"
        )
    return worst


class _Session:
    """A graph ready to run on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.names = [value.name for value in self.session.get_inputs()]

    def __call__(self, *inputs: Array) -> list[Array]:
        return self.session.run(None, dict(zip(self.names, inputs, strict=True)))  # type: ignore[no-any-return]


def _tokens(sae: SAE[Any]) -> list[Float[Tensor, "batch d_in"]]:
    """Standard normal tokens with a zero one; and such as residual streams have, large, a few dimensions far larger:
    of the size that the SAE's constants of normalising tell, or of ten a dimension.
    """
    generator = torch.Generator().manual_seed(0)
    plain, large = (torch.randn(_TOKENS, sae.d_in, generator=generator) for _ in range(2))
    plain[0] = 0
    large[:, :: max(sae.d_in // 4, 2)] *= 30
    constants = {name: w.float().cpu() for name, w in sae.weights().items() if name in _SIZES}
    if not constants:
        return [plain, 10 * large]
    large = large * constants.get("norm_scale", 1)
    if "norm_unwhiten" in constants:
        large = large @ constants["norm_unwhiten"]
    return [plain, large * constants.get("norm_std", 1) + constants.get("norm_mean", 0)]


def _acts_apart(values: Array, indices: Array, wanted: Acts) -> tuple[float, Array]:
    """Largest difference of acts over tokens with the same active latents; and which tokens have others."""
    width = max(values.shape[1], wanted.values.shape[-1])
    ours = _in_order(values, indices, width, wanted.d_sae)
    theirs = _in_order(_numpy(wanted.values), _numpy(wanted.indices), width, wanted.d_sae)
    other = (ours[0] != theirs[0]).any(1)
    apart: Array = np.abs(ours[1] - theirs[1])[~other]
    return float(apart.max(initial=0)), other


def _in_order(values: Array, indices: Array, width: int, none: int) -> tuple[Array, Array]:
    """Indices of the acts that are not zero, ascending and then `none`, and their values, in `width` slots."""
    more = ((0, 0), (0, width - values.shape[1]))
    keys = np.pad(np.where(values != 0, indices, none), more, constant_values=none)
    order = keys.argsort(1, kind="stable")
    padded = np.pad(values, more)
    return np.take_along_axis(keys, order, 1), np.take_along_axis(padded, order, 1)


def _largest(values: Array) -> float:
    return max(float(np.abs(values).max()), 1e-30)


def _numpy(tensor: Tensor) -> Array:
    """As the graphs take and give it: float32 or int64."""
    whole = not tensor.is_floating_point()
    found: Array = (tensor if whole else tensor.float()).detach().cpu().numpy()
    return found
