"""The bi-orthogonality penalty of encoder and decoder (Muchane et al. 2025, eq. 3.4) without its n × n matrix."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.ops.factored import read_whole

_EPS = 1e-6  # added to norms, as in the authors' code
_STRIPS = 4
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
    """Its gradient is computed with it, from the same products, and takes few passes over the weights."""

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
        e = torch.linalg.vector_norm(W_enc, dim=0) + _EPS
        d = torch.linalg.vector_norm(W_dec, dim=1, keepdim=True) + _EPS
        E, D = W_enc / e, W_dec / d
        square, for_E, for_D = _square(E, D, products or E.dtype, signs)
        diagonal = (D * E.T).sum(1)
        if released:
            ones, column_sums = D.sum(0), D.sum(0) @ E
            rest = square - 2 * diagonal @ column_sums + n * diagonal @ diagonal
            weights = 2 * n * diagonal - 2 * column_sums
            for_E -= 2 * torch.outer(ones, diagonal)
            for_D -= 2 * (E @ diagonal)
        else:
            rest = square - diagonal @ diagonal
            weights = -2 * diagonal
        norm: Tensor = rest.clamp_min(torch.finfo(rest.dtype).tiny).sqrt()
        pairs = max(n * n - n, 1)
        for_E.addcmul_(D.T, weights)
        for_D.addcmul_(E.T, weights[:, None])
        _of_root_(for_E, E, e, 0, norm * pairs)
        _of_root_(for_D, D, d, 1, norm * pairs)
        ctx.save_for_backward(for_E, for_D)
        return norm / pairs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        for_enc, for_dec = ctx.saved_tensors
        return grads[0] * for_enc, grads[0] * for_dec, None, None, None


def _square(
    E: Tensor, D: Tensor, products: torch.dtype, signs: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`‖DE‖_F²`, or an estimate of it, and its gradients for both."""
    if signs is not None:
        y = E @ signs
        z = D @ y
        factor = 2 / signs.shape[1]
        return z.square().sum() / signs.shape[1], factor * (D.T @ z) @ signs.T, factor * z @ y.T
    rounded_E, rounded_D = E.to(products), D.to(products)
    first, second = _gram(rounded_E), _gram(rounded_D.T)
    square = (first.to(E.dtype) * second.to(E.dtype)).sum()
    return square, (second @ rounded_E).to(E.dtype).mul_(2), (rounded_D @ first).to(E.dtype).mul_(2)


def _gram(X: Tensor) -> Tensor:
    """`XXᵀ`, of which little more than the upper half is computed."""
    gram: Tensor = X.new_empty(len(X), len(X))
    size = -(-len(X) // _STRIPS)
    for start in range(0, len(X), size):
        part = X[start : start + size] @ X[start:].T
        gram[start : start + size, start:] = part
        gram[start:, start : start + size] = part.T
    return gram


def _of_root_(gradient: Tensor, unit: Tensor, scale: Tensor, axis: int, divisor: Tensor) -> None:
    """Makes of a square's gradient for unit vectors that of its root by `divisor`, for vectors `unit · scale`."""
    along = (gradient * unit).sum(axis, keepdim=True) * scale / (scale - _EPS)
    gradient.addcmul_(unit, along, value=-1).div_(scale * (2 * divisor))
