"""Dense matrix products: by oneDNN on a CPU, and in bfloat16 within a block of code that asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.ops.setting import Setting

_ROWS = 16
_WORTH = 1 << 21
"""Rows and multiply-adds from which oneDNN is asked for a float32 product: twice as fast as PyTorch's own BLAS where
that is MKL on a processor that Intel did not make, and no slower elsewhere; a smaller one is over before it begins."""

_precision: Setting[torch.dtype] = Setting("precision", torch.float32)


@contextmanager
def products_in(precision: torch.dtype) -> Iterator[None]:
    """Within it float32 products of `product` and `kept_linear` are taken in `bfloat16`, or as they are in `float32`.

    Then their factors are rounded to 8 bits, sums are taken in float32, and a sum is rounded to 8 bits again; the
    gradients of such a product are products of the same kind, wherever backward runs. Weights stay as they are.
    """
    token = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(token)


def precision_of_products() -> torch.dtype:
    """What `products_in` has set."""
    return _precision.get()


def product(
    x: Float[Tensor, "batch a"],
    W: Float[Tensor, "a b"],
    bias: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, "batch b"]:
    """`x W + bias`, in the type that these have."""
    return _Product.apply(x, W, bias, _precision.get())  # type: ignore[no-any-return, no-untyped-call]


def multiply(
    x: Float[Tensor, "batch a"],
    W: Float[Tensor, "a b"],
    precision: torch.dtype,
    bias: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, "batch b"]:
    """`product` without autograd, in a given precision."""
    if x.dtype == torch.float32 and precision == torch.bfloat16:
        found = (x.bfloat16() @ W.bfloat16()).float()
        return found if bias is None else found.add_(bias)
    if _is_for_onednn(x, W):
        return torch.ops.mkldnn._linear_pointwise(x, W.mT, bias, "none", [], "")  # type: ignore[no-any-return]
    return x @ W if bias is None else torch.addmm(bias, x, W)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W: Tensor, bias: Tensor | None, precision: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(x, W)
        ctx.precision = precision
        return multiply(x, W, precision, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, W = ctx.saved_tensors
        grad = grads[0]
        needs_x, needs_W, needs_bias, _ = ctx.needs_input_grad
        return (
            multiply(grad, W.mT, ctx.precision) if needs_x else None,
            multiply(x.mT, grad, ctx.precision) if needs_W else None,
            grad.sum(0) if needs_bias else None,
            None,
        )


def _is_for_onednn(x: Tensor, W: Tensor) -> bool:
    """The operator is what compiled modules run; no public name reaches it.

    It copies an `x` that does not lie row by row, but of a part of a larger `W` it takes the product number by number.
    torch.compile takes products in its own way, and fails at the operator.
    """
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == W.dtype == torch.float32
        and len(x) >= _ROWS
        and x.numel() * W.shape[1] >= _WORTH
        and (W.is_contiguous() or W.mT.is_contiguous())
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and bool(torch.backends.mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
