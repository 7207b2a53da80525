"""Latents that have stopped acting, and the loss that brings them back (AuxK: Gao et al. 2024, A.2)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.ops import collective
from hsae_hub.ops.sparse import weighted_rows


@torch.no_grad()
def find_dead_(
    tokens_since_fired: Int64[Tensor, " d_sae"],
    values: Float[Tensor, "*acts"],
    indices: Int64[Tensor, "*acts"],
    *,
    tokens: int,
    dead_after_tokens: int,
    n_steps: int,
) -> Int64[Tensor, " dead"]:
    """Counts a batch of `tokens` with these acts, in place; returns the latents that are dead after it.

    The batch is that of all processes, each of which gives its part. A latent is dead after `dead_after_tokens` without
    a positive act, or after a tenth of a run of `n_steps` such batches, if that is less.
    """
    tokens = collective.total_count(tokens)
    fired = torch.zeros_like(tokens_since_fired)
    fired[indices[values > 0]] = 1
    tokens_since_fired += tokens
    tokens_since_fired.masked_fill_(collective.total(fired) > 0, 0)
    limit = min(dead_after_tokens, math.ceil(n_steps * tokens / 10))
    return (tokens_since_fired >= limit).nonzero()[:, 0]


def revival_loss(
    pre: Float[Tensor, "batch d_sae"],
    error: Float[Tensor, "batch d_in"],
    dead: Int64[Tensor, " dead"],
    W_dec: Float[Tensor, "d_sae d_in"],
) -> Float[Tensor, ""]:
    """Squared distance of `error`, a constant here, from what the `d_in / 2` largest dead latents make of it."""
    error = error.detach()
    k_aux = min(error.shape[-1] // 2, len(dead))  # Gao et al. 2024, A.2
    if k_aux == 0:
        return error.new_zeros(())
    values, places = pre[:, dead].topk(k_aux, sorted=False)
    revived = weighted_rows(values.relu(), dead[places], W_dec)
    return (error - revived).square().sum(-1).mean()
