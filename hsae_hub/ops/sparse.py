"""Products with a few blocks of rows of a large table, which never copy those rows out once a token.

A table `[n, s, width]` has `n` blocks of `s` rows; a matrix of single rows is one with `s = 1`.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd import Function

# functions, not their modules, which are not shipped with an SAE's code
from hsae_hub.ops.factored import gradient, taker_for
from hsae_hub.ops.kernels import block_dot as dots_of
from hsae_hub.ops.kernels import block_sum as sums_of
from hsae_hub.ops.kernels import pair_dot as pair_dots_of
from hsae_hub.ops.kernels import pair_sum as pair_sums_of
from hsae_hub.ops.kernels.uses import BlockGradient


def block_dot(
    x: Float[Tensor, "batch width"],
    table: Float[Tensor, "n s width"],
    index: Int64[Tensor, "batch q"],
) -> Float[Tensor, "batch q s"]:
    """`out[t, i, r] = x[t] · table[index[t, i], r]`."""
    return _BlockDot.apply(x, table, index)  # type: ignore[no-any-return, no-untyped-call]


def block_sum(
    values: Float[Tensor, "batch q s"],
    index: Int64[Tensor, "batch q"],
    table: Float[Tensor, "n s width"],
) -> Float[Tensor, "batch width"]:
    """`out[t] = Σ_i,r values[t, i, r] · table[index[t, i], r]`."""
    return _BlockSum.apply(values, index, table)  # type: ignore[no-any-return, no-untyped-call]


def weighted_rows(
    values: Float[Tensor, "batch q"],
    rows: Int64[Tensor, "batch q"],
    table: Float[Tensor, "rows width"],
) -> Float[Tensor, "batch width"]:
    """`out[t] = Σ_i values[t, i] · table[rows[t, i]]`."""
    return block_sum(values[..., None], rows, table[:, None])


def pair_sum(
    values: Float[Tensor, " pairs"],
    tokens: Int64[Tensor, " pairs"],
    rows: Int64[Tensor, " pairs"],
    table: Float[Tensor, "rows width"],
    batch: int,
) -> Float[Tensor, "batch width"]:
    """`out[t] = Σ values[p] · table[rows[p]]` over all `p` with `tokens[p] = t`; `tokens` ascend, some may miss."""
    return _PairSum.apply(values, tokens, rows, table, batch)  # type: ignore[no-any-return, no-untyped-call]


class _BlockDot(Function):
    """Its gradients are a block sum and the gradient of a table."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, index: Tensor) -> Tensor:
        ctx.take = taker_for(table, index)
        ctx.save_for_backward(x, table, index)
        return dots_of(x, table, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, table, index = ctx.saved_tensors
        needs_x, needs_table, _ = ctx.needs_input_grad
        grad_x = sums_of(grads[0], index, table) if needs_x else None
        grad_table = None
        if needs_table:
            grad_table = gradient(ctx.take, BlockGradient.of(x, grads[0], index), len(table))
        return grad_x, grad_table, None


class _BlockSum(Function):
    """Its gradients are block dots and the gradient of a table."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, table: Tensor) -> Tensor:
        ctx.take = taker_for(table, index)
        ctx.save_for_backward(values, index, table)
        return sums_of(values, index, table)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        values, index, table = ctx.saved_tensors
        needs_values, _, needs_table = ctx.needs_input_grad
        grad_values = dots_of(grads[0], table, index) if needs_values else None
        grad_table = None
        if needs_table:
            part = BlockGradient.of(grads[0], values, index)
            grad_table = gradient(ctx.take, part, len(table))
        return grad_values, None, grad_table


class _PairSum(Function):
    """The same of pairs in a list."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, tokens: Tensor, rows: Tensor, table: Tensor, batch: int
    ) -> Tensor:
        ctx.take = taker_for(table, rows)
        ctx.save_for_backward(values, tokens, rows, table)
        return pair_sums_of(values, tokens, rows, table, batch)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, tokens, rows, table = ctx.saved_tensors
        needs_values, _, _, needs_table, _ = ctx.needs_input_grad
        grad_values = pair_dots_of(grads[0], table, tokens, rows) if needs_values else None
        grad_table = None
        if needs_table:
            part = BlockGradient(grads[0], tokens, values[:, None], rows)
            found = gradient(ctx.take, part, len(table))
            grad_table = None if found is None else found[:, 0]
        return grad_values, None, None, grad_table, None
