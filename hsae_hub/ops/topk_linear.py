"""A linear encoder of which a few entries a token are kept, and whose gradient takes only those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.ops.factored import taker_for
from hsae_hub.ops.kernels import block_gradient
from hsae_hub.ops.kernels.uses import BlockGradient
from hsae_hub.ops.products import multiply, precision_of_products

_STRIP = (
    256  # columns of x at once: their gradients, before they are turned, stay in a core's cache
)


class Kept(NamedTuple):
    """Pre-activations, and those of them that were chosen."""

    pre: Float[Tensor, "batch n"]
    values: Float[Tensor, "batch k"]
    """`pre` at `indices`."""
    indices: Int64[Tensor, "batch k"]


def topk_linear(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n"],
    choose: Callable[[Tensor], Tensor],
    *,
    bias: Float[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d_in"] | None = None,
) -> Kept:
    """`pre = (x - centre) W + bias`, and its entries at the `k` different places a token that `choose(pre)` names.

    A loss of `values` alone costs, backward, `k` columns of `W` a token, and `pre` is not held for it; one of `pre`
    too, or a gradient of `x`, costs the dense products. Sparse backward of the encoder: EleutherAI's sparsify.
    """
    return Kept(*_TopKLinear.apply(x, W, bias, centre, choose))  # type: ignore[no-untyped-call]


class _TopKLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W: Tensor,
        bias: Tensor | None,
        centre: Tensor | None,
        choose: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.take = taker_for(W, None)
        centred = x if centre is None else x - centre
        ctx.precision = precision_of_products()
        pre = multiply(centred, W, ctx.precision, bias)
        indices = choose(pre)
        ctx.save_for_backward(x, W, centre, indices)
        ctx.mark_non_differentiable(indices)
        ctx.set_materialize_grads(False)
        return pre, pre.gather(-1, indices), indices

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, W, centre, indices = ctx.saved_tensors
        for_pre, for_values, _ = grads
        needs_x, needs_W, needs_bias, needs_centre, _ = ctx.needs_input_grad
        centred = x if centre is None else x - centre
        values = x.new_zeros(indices.shape) if for_values is None else for_values
        needs_total = needs_bias or needs_centre
        grad_x = total = None
        if for_pre is None and not needs_x:
            part = BlockGradient.of(centred, values[..., None], indices, columns=True)
            grad_W = None
            if needs_W and ctx.take is None:
                grad_W = columns_gradient(part, W)
            elif needs_W:
                ctx.take(part)
            if needs_total:
                ones = x.new_ones(len(x), 1)
                total = block_gradient(ones, *part[1:4], W.shape[1])[:, 0, 0]
        else:
            start = x.new_zeros(len(x), W.shape[1]) if for_pre is None else for_pre
            dense = start.scatter_add(-1, indices, values)
            grad_x = multiply(dense, W.T, ctx.precision) if needs_x else None
            grad_W = multiply(centred.T, dense, ctx.precision) if needs_W else None
            total = dense.sum(0) if needs_total else None
        grad_centre = -(W @ total) if needs_centre else None
        return grad_x, grad_W, total if needs_bias else None, grad_centre, None


def columns_gradient(
    part: BlockGradient, like: Float[Tensor, "width n"]
) -> Float[Tensor, "width n"]:
    """The gradient of a matrix of columns, whose gradients as rows are turned a strip at a time.

    Sums are taken in float32 at least: a column that many tokens use has many addends.
    """
    precise = torch.promote_types(part.x.dtype, torch.float32)
    x, values = part.x.to(precise), part.values.to(precise)
    grad = torch.empty_like(like)
    for start in range(0, x.shape[1], _STRIP):
        strip = slice(start, start + _STRIP)
        rows = block_gradient(x[:, strip], part.tokens, values, part.blocks, like.shape[1])
        grad[strip].copy_(rows[:, 0].T)
    return grad
