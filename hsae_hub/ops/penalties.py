"""The bi-orthogonality penalty of encoder and decoder (Muchane et al. 2025, eq. 3.4) without its n × n matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.ops.factored import read_whole

_EPS = 1e-6  # added to norms, as in the authors' code
_STRIPS = 4
_AT_ONCE = 256
"""Latents whose vectors are taken at once, on a CPU: they stay in a core's cache."""
PROBES = 32
"""Random vectors that estimate ‖ED‖_F² when it is not computed exactly."""


def cross_orthogonality(
    W_enc: Float[Tensor, "d_in n"],
    W_dec: Float[Tensor, "n d_in"],
    *,
    variant: Literal["paper", "released"] = "paper",
    products: torch.dtype | None = None,
    probes: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """`‖M − diag(M)‖_F / (n² − n)` with `M = D̂Ê`, unit rows of `D` and unit columns of `E`.

    `released` is what the authors' code computes: it subtracts `M_jj` from the whole of column `j`.
    `‖M‖_F² = tr((EEᵀ)(DᵀD))` costs two d × d products and its gradient two more, of numbers rounded to `products` where
    that is given. With a generator in `probes` the square is estimated, without bias, from `PROBES` random sign
    vectors; its root is too low by a share of `V / 8`, with the estimate's variance `V` as a share of the square's own.
    """
    read_whole(W_dec)
    signs = None
    if probes is not None:
        drawn = torch.randint(2, (len(W_dec), PROBES), generator=probes, device=probes.device)
        signs = (2.0 * drawn - 1).to(W_dec)
    return _Orthogonality.apply(W_enc, W_dec, variant == "released", products, signs)  # type: ignore[no-any-return, no-untyped-call]


class _Orthogonality(torch.autograd.Function):
    """Its gradient is computed with it, from the same products, a few latents at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        W_enc: Tensor,
        W_dec: Tensor,
        released: bool,
        products: torch.dtype | None,
        signs: Tensor | None,
    ) -> Tensor:
        n = len(W_dec)
        units = _Units(W_enc, W_dec)
        rest, gradient = (
            _exactly(units, products or W_enc.dtype) if signs is None else _estimated(units, signs)
        )
        ones, shared = W_enc.new_zeros(2, len(W_enc))
        if released:
            for _, E, D in units.strips():
                ones += D.sum(0)
                shared += E @ (D * E.T).sum(1)
        for_enc, for_dec = torch.empty_like(W_enc), torch.empty_like(W_dec)
        for s, E, D in units.strips():
            for_E, for_D = gradient(s)
            diagonal = (D * E.T).sum(1)
            if released:
                column_sums = ones @ E
                rest = rest + diagonal @ (n * diagonal - 2 * column_sums)
                weights = 2 * (n * diagonal - column_sums)
                for_E -= 2 * torch.outer(ones, diagonal)
                for_D -= 2 * shared
            else:
                rest = rest - diagonal @ diagonal
                weights = -2 * diagonal
            for_enc[:, s] = _of_vectors_(for_E + D.T * weights, E, units.e[s])
            for_dec[s] = _of_vectors_(for_D.T + E * weights, D.T, units.d[s]).T
        norm: Tensor = rest.clamp_min(torch.finfo(rest.dtype).tiny).sqrt()
        pairs = max(n * n - n, 1)
        ctx.save_for_backward(for_enc, for_dec, 1 / (2 * norm * pairs))
        return norm / pairs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        for_enc, for_dec, factor = ctx.saved_tensors
        return grads[0] * factor * for_enc, grads[0] * factor * for_dec, None, None, None


class _Units:
    """Unit vectors of both matrices."""

    def __init__(self, W_enc: Tensor, W_dec: Tensor) -> None:
        self.W_enc, self.W_dec = W_enc, W_dec
        self.e = torch.linalg.vector_norm(W_enc, dim=0) + _EPS
        self.d = torch.linalg.vector_norm(W_dec, dim=1) + _EPS

    def strips(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Which latents, and their columns of `Ê` and rows of `D̂`."""
        at_once = _AT_ONCE if self.W_enc.device.type == "cpu" else len(self.W_dec)
        for start in range(0, len(self.W_dec), at_once):
            s = slice(start, start + at_once)
            yield s, self.W_enc[:, s] / self.e[s], self.W_dec[s] / self.d[s, None]


_Gradient = Callable[[slice], tuple[Tensor, Tensor]]
"""Gradient of `‖D̂Ê‖_F²` for some columns of `Ê` and rows of `D̂`."""


def _exactly(units: _Units, products: torch.dtype) -> tuple[Tensor, _Gradient]:
    kind = units.e.dtype
    E_all = torch.empty_like(units.W_enc, dtype=products)
    D_all = torch.empty_like(units.W_dec, dtype=products)
    for s, E, D in units.strips():
        E_all[:, s], D_all[s] = E, D
    first, second = _gram(E_all), _gram(D_all.T)

    def gradient(s: slice) -> tuple[Tensor, Tensor]:
        return 2 * (second @ E_all[:, s]).to(kind), 2 * (D_all[s] @ first).to(kind)

    return (first.to(kind) * second.to(kind)).sum(), gradient


def _estimated(units: _Units, signs: Tensor) -> tuple[Tensor, _Gradient]:
    y = units.W_enc @ (signs / units.e[:, None])
    z = units.W_dec @ y / units.d[:, None]
    back = units.W_dec.T @ (z / units.d[:, None])
    factor = 2 / signs.shape[1]

    def gradient(s: slice) -> tuple[Tensor, Tensor]:
        return factor * back @ signs[s].T, factor * z[s] @ y.T

    return z.square().sum() / signs.shape[1], gradient


def _gram(X: Tensor) -> Tensor:
    """`XXᵀ`, of which little more than the upper half is computed."""
    gram: Tensor = X.new_empty(len(X), len(X))
    size = -(-len(X) // _STRIPS)
    for start in range(0, len(X), size):
        part = X[start : start + size] @ X[start:].T
        gram[start : start + size, start:] = part
        gram[start:, start : start + size] = part.T
    return gram


def _of_vectors_(gradient: Tensor, unit: Tensor, scale: Tensor) -> Tensor:
    """From a gradient for columns of norm 1 to that for the columns that were divided by `scale`, in place."""
    along = (gradient * unit).sum(0) * scale / (scale - _EPS)
    return gradient.addcmul_(unit, along, value=-1).div_(scale)
