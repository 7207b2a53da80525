"""The bi-orthogonality penalty of encoder and decoder (Muchane et al. 2025, eq. 3.4) without its n × n matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.ops.factored import read_whole
from hsae_hub.ops.products import multiply

_EPS = 1e-6  # added to norms, as in the authors' code
_SUMMED, _TURNED = 4096, 512
"""Latents taken at once on a CPU: so many that a product over them is worth its start, and so few that their vectors
stay in a core's cache."""
_STRIPS, _STRIP = 8, 128
"""A symmetric product is computed in at most so many strips, of at least so many rows."""
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
    """Forward takes sums over all latents; from these backward finds the gradient of a few latents at a time."""

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
        whole = _Exact(units, products or W_enc.dtype) if signs is None else _Probed(units, signs)
        diagonal = W_enc.new_empty(n)
        ones, shared = W_enc.new_zeros(2, len(W_enc))
        for s, E, D in units.columns():
            whole.add_(s, E, D)
            diagonal[s] = (E * D).sum(0)
            if released:
                ones += D.sum(1)
                shared += E @ diagonal[s]
        if released:
            weights = n * diagonal - ones @ W_enc / units.e
            rest = diagonal @ (2 * weights - n * diagonal)
        else:
            weights = -diagonal
            rest = diagonal @ weights
        square = (whole.square() + rest).clamp_min(torch.finfo(rest.dtype).tiny)
        pairs = max(n * n - n, 1)
        ctx.save_for_backward(W_enc, W_dec)
        ctx.sums = whole, units.e, units.d, diagonal, weights, ones, shared
        ctx.factor, ctx.released = 1 / (square.sqrt() * pairs), released
        norm: Tensor = square.sqrt() / pairs
        return norm

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        units = _Units(*ctx.saved_tensors)
        whole, units.e, units.d, diagonal, weights, ones, shared = ctx.sums
        factor = grads[0] * ctx.factor
        for_enc, for_dec = torch.empty_like(units.W_enc), torch.empty_like(units.W_dec)
        for s, E, D in units.rows():
            for_E, for_D = whole.slopes(s, E, D)
            if ctx.released:
                for_E -= torch.outer(diagonal[s], ones)
                for_D -= shared
            for_E.addcmul_(D, weights[s, None])
            for_D.addcmul_(E, weights[s, None])
            for_enc[:, s] = _of_rows_(for_E, E, units.e[s, None], factor).T.contiguous()
            for_dec[s] = _of_rows_(for_D, D, units.d[s, None], factor)
        return for_enc, for_dec, None, None, None


class _Units:
    """Unit vectors of both matrices, some latents at a time."""

    def __init__(self, W_enc: Tensor, W_dec: Tensor) -> None:
        self.W_enc, self.W_dec = W_enc, W_dec
        self.e = self.d = W_enc.new_empty(0)
        """What they are divided by; `columns` sets it."""

    def columns(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Which latents, and their columns of `Ê` and of `D̂ᵀ`."""
        self.e, self.d = self.W_enc.new_empty(2, len(self.W_dec))
        for s in self._slices(_SUMMED):
            E, D = self.W_enc[:, s], self.W_dec[s]
            self.e[s] = E.square().sum(0).sqrt() + _EPS  # vector_norm of columns is slow
            self.d[s] = torch.linalg.vector_norm(D, dim=1) + _EPS
            yield s, E / self.e[s], (D / self.d[s, None]).T.contiguous()

    def rows(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Which latents, and their rows of `Êᵀ` and of `D̂`, once there were their columns."""
        for s in self._slices(_TURNED):
            yield s, (self.W_enc[:, s] / self.e[s]).T.contiguous(), self.W_dec[s] / self.d[s, None]

    def _slices(self, at_once: int) -> Iterator[slice]:
        n = len(self.W_dec)
        if self.W_dec.device.type != "cpu":
            at_once = n
        return (slice(start, start + at_once) for start in range(0, n, at_once))


class _Exact:
    """`‖D̂Ê‖_F²` by two Gram matrices."""

    def __init__(self, units: _Units, products: torch.dtype) -> None:
        d_in = len(units.W_enc)
        self.products = products
        self.of_E, self.of_D = units.W_enc.new_zeros(2, d_in, d_in)

    def add_(self, s: slice, E: Tensor, D: Tensor) -> None:
        """Counts some latents in, given their columns."""
        _add_half_(self.of_E, E.to(self.products))
        _add_half_(self.of_D, D.to(self.products))

    def square(self) -> Tensor:
        """After all latents."""
        self.of_E, self.of_D = ((gram.triu() + gram.triu(1).T) for gram in (self.of_E, self.of_D))
        found: Tensor = (self.of_E * self.of_D).sum()
        self.of_E, self.of_D = self.of_E.to(self.products), self.of_D.to(self.products)
        return found

    def slopes(self, s: slice, E: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
        """Half the gradient for some latents, given as rows."""
        # symmetric, and quicker with the last axis first
        kind, of_E, of_D = self.products, self.of_E.mT, self.of_D.mT
        return (
            multiply(E.to(kind), of_D, kind).to(E.dtype),
            multiply(D.to(kind), of_E, kind).to(D.dtype),
        )


class _Probed:
    """Its estimate by random signs."""

    def __init__(self, units: _Units, signs: Tensor) -> None:
        self.units, self.signs = units, signs
        self.y = self.z = self.back = units.W_enc.new_zeros(len(units.W_enc), signs.shape[1])

    def add_(self, s: slice, E: Tensor, D: Tensor) -> None:
        """Counts some latents in, given their columns."""
        self.y += E @ self.signs[s]

    def square(self) -> Tensor:
        """After all latents."""
        W_dec, d = self.units.W_dec, self.units.d[:, None]
        self.z = W_dec @ self.y / d
        self.back = W_dec.T @ (self.z / d)
        return self.z.square().sum() / self.signs.shape[1]

    def slopes(self, s: slice, E: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
        """Half the gradient for some latents, given as rows."""
        probes = self.signs.shape[1]
        return self.signs[s] @ self.back.T / probes, self.z[s] @ self.y.T / probes


def _add_half_(gram: Tensor, X: Tensor) -> None:
    """`gram += XXᵀ`, of which little more than the upper half is computed."""
    rows = max(-(-len(X) // _STRIPS), _STRIP)
    for start in range(0, len(X), rows):
        strip = X[start : start + rows]
        gram[start : start + rows, start:] += multiply(strip, X[start:].T, X.dtype)


def _of_rows_(gradient: Tensor, unit: Tensor, scale: Tensor, factor: Tensor) -> Tensor:
    """From a gradient for rows of norm 1 to `factor` times that for the rows that were divided by `scale`, in place."""
    along = (gradient * unit).sum(1, keepdim=True) * scale / (scale - _EPS)
    return gradient.addcmul_(unit, along, value=-1).mul_(factor / scale)
