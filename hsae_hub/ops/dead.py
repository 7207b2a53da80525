"""Latents that have stopped acting, and the loss that brings them back (AuxK: Gao et al. 2024, A.2)."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.ops import collective
from hsae_hub.ops.factored import gradient, taker_for
from hsae_hub.ops.kernels.uses import BlockGradient
from hsae_hub.ops.products import multiply, precision_of_products


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
    of_dead = pre[:, dead]
    values, places = of_dead.topk(k_aux, sorted=False)
    acts = torch.zeros_like(of_dead).scatter_(-1, places, values.relu())
    revived = _WholeRows.apply(acts, dead, W_dec)  # type: ignore[no-untyped-call]
    loss: Tensor = (error - revived).square().sum(-1).mean()
    return loss


class _WholeRows(torch.autograd.Function):
    """`acts W_dec[rows]`; the gradient of those rows is handed over as that of one use each.

    A token revives so many latents that the product with all dead ones is quicker than a sum of rows for each token.
    """

    @staticmethod
    def forward(ctx: Any, acts: Tensor, rows: Tensor, W_dec: Tensor) -> Tensor:
        ctx.take = taker_for(W_dec[:, None], rows[None])
        ctx.precision = precision_of_products()
        ctx.save_for_backward(acts, rows, W_dec)
        return multiply(acts, W_dec[rows], ctx.precision)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        acts, rows, W_dec = ctx.saved_tensors
        needs_acts, _, needs_table = ctx.needs_input_grad
        for_acts = multiply(grads[0], W_dec[rows].T, ctx.precision) if needs_acts else None
        for_table: Tensor | None = None
        if needs_table:
            for_rows = multiply(acts.T, grads[0], ctx.precision)
            each = torch.arange(len(rows), device=rows.device)
            part = BlockGradient(for_rows, each, acts.new_ones(len(rows), 1), rows)
            found = gradient(ctx.take, part, len(W_dec))
            for_table = None if found is None else found[:, 0]
        return for_acts, None, for_table
