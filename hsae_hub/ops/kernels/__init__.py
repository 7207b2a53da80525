"""Sums over a few blocks of a table and the k largest of a row, without autograd: one interface, several machines.

A table `[n, s, width]` has `n` blocks of `s` rows. `index[t, i]` are the blocks of token `t`; a block may come several
times, and a row's addends come in the same order every time.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.ops.kernels import plain


def block_dot(
    x: Float[Tensor, "batch width"],
    table: Float[Tensor, "n s width"],
    index: Int64[Tensor, "batch q"],
) -> Float[Tensor, "batch q s"]:
    """`out[t, i, r] = x[t] · table[index[t, i], r]`."""
    return pick(x).block_dot(x, table, index)  # type: ignore[no-any-return]


def block_sum(
    values: Float[Tensor, "batch q s"],
    index: Int64[Tensor, "batch q"],
    table: Float[Tensor, "n s width"],
) -> Float[Tensor, "batch width"]:
    """`out[t] = Σ_i,r values[t, i, r] · table[index[t, i], r]`."""
    return pick(table).block_sum(values, index, table)  # type: ignore[no-any-return]


def block_gradient(
    x: Float[Tensor, "batch width"],
    values: Float[Tensor, "batch q s"],
    index: Int64[Tensor, "batch q"],
    n: int,
) -> Float[Tensor, "n s width"]:
    """`out[index[t, i], r] += values[t, i, r] · x[t]` over all `t` and `i`, from zero: the gradient of a table."""
    return pick(x).block_gradient(x, values, index, n)  # type: ignore[no-any-return]


def top_k(pre: Float[Tensor, "batch n"], k: int) -> Int64[Tensor, "batch k"]:
    """Where the `k` largest of each row are, in any order; which of equal ones is open. NaN is larger than any."""
    return pick(pre).top_k(pre, k)  # type: ignore[no-any-return]


def pick(*tensors: Tensor) -> ModuleType:
    """The kernels that are fastest for these tensors here."""
    return (_cuda() if tensors[0].is_cuda else None) or plain


@cache
def _cuda() -> ModuleType | None:
    """None without Triton, which comes with torch for CUDA."""
    return import_module(f"{__name__}.cuda") if find_spec("triton") else None
