"""Products with a few rows of a large table, which never copy those rows out once a token."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

_SUM = 0  # the mode's number in the operators behind embedding_bag


def weighted_rows(
    values: Float[Tensor, "batch q"],
    rows: Int64[Tensor, "batch q"],
    table: Float[Tensor, "rows width"],
) -> Float[Tensor, "batch width"]:
    """`out[t] = Σ_i values[t, i] · table[rows[t, i]]`."""
    return embedding_bag(rows, table, per_sample_weights=values, mode="sum")


def pair_dot(
    x: Float[Tensor, "batch width"],
    table: Float[Tensor, "rows width"],
    rows: Int64[Tensor, "batch q"],
) -> Float[Tensor, "batch q"]:
    """`out[t, i] = x[t] · table[rows[t, i]]`: the product of `weighted_rows` with respect to its values."""
    return _PairDot.apply(x, table, rows)  # type: ignore[no-any-return, no-untyped-call]


def row_gradient(
    x: Float[Tensor, "batch width"],
    values: Float[Tensor, "batch q"],
    rows: Int64[Tensor, "batch q"],
    n: int,
) -> Float[Tensor, "n width"]:
    """`out[rows[t, i]] += values[t, i] · x[t]` over all `t` and `i`, from zero: the gradient of a table of `n` rows.

    A row's addends come in the same order every time. The operator is what embedding_bag's backward runs; no public
    name reaches it.
    """
    flat, _, bags = _bags(rows)
    sizes = torch.full((len(rows),), rows.shape[1], device=rows.device)
    return torch.ops.aten._embedding_bag_dense_backward(  # type: ignore[no-any-return]
        x.contiguous(), flat, bags, sizes, sizes, n, False, _SUM, values.reshape(-1)
    )


class _PairDot(torch.autograd.Function):
    """The operator is what embedding_bag's backward runs for its weights; no public name reaches it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(x, table, rows)
        flat, offsets, bags = _bags(rows)
        dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            x.contiguous(), table, flat, offsets, bags, _SUM
        )
        return dots.view(rows.shape)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, table, rows = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_x = weighted_rows(grad, rows, table) if ctx.needs_input_grad[0] else None
        grad_table = row_gradient(x, grad, rows, len(table)) if ctx.needs_input_grad[1] else None
        return grad_x, grad_table, None


def _bags(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, q = rows.shape
    index = torch.arange(batch, device=rows.device)
    return rows.reshape(-1), index * q, index.repeat_interleave(q)
