"""The bi-orthogonality penalty of encoder and decoder (Muchane et al. 2025, eq. 3.4) without its n × n matrix."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.ops.factored import read_whole

_EPS = 1e-6  # added to norms, as in the authors' code
PROBES = 32
"""Random vectors that estimate ‖ED‖_F² when it is not computed exactly."""


def cross_orthogonality(
    W_enc: Float[Tensor, "d_in n"],
    W_dec: Float[Tensor, "n d_in"],
    *,
    variant: Literal["paper", "released"] = "paper",
    probes: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """`‖M − diag(M)‖_F / (n² − n)` with `M = D̂Ê`, unit rows of `D` and unit columns of `E`.

    `released` is what the authors' code computes: it subtracts `M_jj` from the whole of column `j`. Exactly,
    `‖M‖_F² = tr((EEᵀ)(DᵀD))` costs two d × d products; with a generator in `probes` it is estimated, without bias,
    from `PROBES` random sign vectors.
    """
    read_whole(W_dec)
    n = W_dec.shape[0]
    E = W_enc / (W_enc.norm(dim=0, keepdim=True) + _EPS)
    D = W_dec / (W_dec.norm(dim=1, keepdim=True) + _EPS)
    diagonal = (D * E.T).sum(1)
    if probes is None:
        square = ((E @ E.T) * (D.T @ D)).sum()
    else:
        signs = torch.randint(2, (n, PROBES), generator=probes, device=probes.device)
        square = (D @ (E @ (2.0 * signs - 1).to(E))).square().sum() / PROBES
    if variant == "paper":
        rest = square - diagonal.square().sum()
    else:
        column_sums = D.sum(0) @ E
        rest = square - 2 * (diagonal * column_sums).sum() + n * diagonal.square().sum()
    norm: Tensor = rest.clamp_min(torch.finfo(rest.dtype).tiny).sqrt()
    return norm / max(n * n - n, 1)
