"""A linear encoder of which a few entries are kept, and whose gradient takes only those."""

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


class Places(NamedTuple):
    """Different entries of a matrix `[batch, n]`, in one list."""

    tokens: Int64[Tensor, " entries"]
    latents: Int64[Tensor, " entries"]


class Kept(NamedTuple):
    """Pre-activations, and those of them that were chosen."""

    pre: Float[Tensor, "batch n"]
    values: Float[Tensor, "batch k"]
    """`pre` at `indices`."""
    indices: Int64[Tensor, "batch k"]


class Listed(NamedTuple):
    """Pre-activations, and those of them that were chosen, in one list."""

    pre: Float[Tensor, "batch n"]
    values: Float[Tensor, " entries"]
    """`pre` at these places."""
    tokens: Int64[Tensor, " entries"]
    latents: Int64[Tensor, " entries"]


def topk_linear(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n"],
    choose: Callable[[Tensor], Tensor],
    *,
    bias: Float[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d_in"] | None = None,
) -> Kept:
    """`kept_linear` of the `k` different entries of each token that `choose(pre)`, `[batch, k]`, names."""

    chosen: list[Tensor] = []

    def places(pre: Tensor) -> Places:
        indices = choose(pre)
        chosen.append(indices)
        tokens = torch.arange(len(pre), device=pre.device).repeat_interleave(indices.shape[1])
        return Places(tokens, indices.flatten())

    found = kept_linear(x, W, places, bias=bias, centre=centre)
    return Kept(found.pre, found.values.view_as(chosen[0]), chosen[0])


def kept_linear(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n"],
    choose: Callable[[Tensor], Places],
    *,
    bias: Float[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d_in"] | None = None,
) -> Listed:
    """`pre = (x - centre) W + bias`, and its entries at the places that `choose(pre)` names.

    A loss of `values` alone costs, backward, a column of `W` for each, and `pre` is not held for it; one of `pre`
    too, or a gradient of `x`, costs the dense products. Sparse backward of the encoder: EleutherAI's sparsify.
    """
    pre, values, places = keep_linear(x, W, choose, bias=bias, centre=centre)
    assert values is not None and places is not None
    return Listed(pre, values, *places)


def keep_linear(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n"],
    choose: Callable[[Tensor], Places | None],
    *,
    bias: Float[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d_in"] | None = None,
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, " entries"] | None, Places | None]:
    """The same where all of `pre` may be chosen: `choose` then says None, and so do values and places."""

    def find(centred: Tensor) -> _Found:
        pre = multiply(centred, W, precision_of_products(), bias)
        places = choose(pre)
        return pre, None if places is None else pre[places], places

    pre, values, tokens, latents = _KeptLinear.apply(x, W, bias, centre, find)  # type: ignore[no-untyped-call]
    return pre, values, None if tokens is None else Places(tokens, latents)


def found_linear(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n"],
    find: Callable[[Tensor], tuple[Tensor, Places]],
    *,
    centre: Float[Tensor, " d_in"] | None = None,
) -> tuple[Float[Tensor, " entries"], Places]:
    """Entries of `(x - centre) W` and their places, as `find(x - centre)` gives them, who need not make all."""

    def found(centred: Tensor) -> _Found:
        return None, *find(centred)

    _, values, *places = _KeptLinear.apply(x, W, None, centre, found)  # type: ignore[no-untyped-call]
    return values, Places(*places)


_Found = tuple[Tensor | None, Tensor | None, Places | None]
"""All pre-activations, unless nobody needs them, and the kept ones with their places, unless it is all of them."""


class _KeptLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W: Tensor,
        bias: Tensor | None,
        centre: Tensor | None,
        find: Callable[[Tensor], _Found],
    ) -> tuple[Tensor | None, ...]:
        ctx.take = taker_for(W, None)
        ctx.precision = precision_of_products()
        pre, values, places = find(x if centre is None else x - centre)
        ctx.set_materialize_grads(False)
        if places is None:
            ctx.save_for_backward(x, W, centre, None, None)
            return pre, None, None, None
        ctx.save_for_backward(x, W, centre, *places)
        ctx.mark_non_differentiable(*places)
        return pre, values, *places

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, W, centre, tokens, latents = ctx.saved_tensors
        for_pre, for_values = grads[:2]
        needs_x, needs_W, needs_bias, needs_centre, _ = ctx.needs_input_grad
        centred = x if centre is None else x - centre
        needs_total = needs_bias or needs_centre
        grad_x = grad_W = total = None
        if for_pre is None and for_values is not None and not needs_x:
            part = BlockGradient(centred, tokens, for_values[:, None], latents, columns=True)
            if needs_W and ctx.take is None:
                grad_W = columns_gradient(part, W)
            elif needs_W:
                ctx.take(part)
            if needs_total:
                ones = x.new_ones(len(x), 1)
                total = block_gradient(ones, *part[1:4], W.shape[1])[:, 0, 0]
        else:
            dense = x.new_zeros(len(x), W.shape[1]) if for_pre is None else for_pre
            if for_values is not None:
                dense = dense.index_put((tokens, latents), for_values, accumulate=True)
            grad_x = multiply(dense, W.T, ctx.precision) if needs_x else None
            grad_W = multiply(centred.T, dense, ctx.precision) if needs_W else None
            total = dense.sum(0) if needs_total else None
        grad_centre = -(W @ total) if needs_centre and total is not None else None
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
