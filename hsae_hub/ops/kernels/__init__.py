"""Sums over a few blocks of a table and the k largest of a row, without autograd: one interface, several machines.

A table `[n, s, width]` has `n` blocks of `s` rows. `index[t, i]` are the blocks of token `t`; a block may come several
times, and a row's addends come in the same order every time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.ops.kernels import plain

_log = logging.getLogger(__name__)
_HAS_NUMBA, _HAS_TRITON = (find_spec(name) is not None for name in ("numba", "triton"))
if not _HAS_NUMBA:
    _log.info("numba is not installed (hsae-hub[fast]): large sparse products take longer")
_WORTH_IT = 2**19  # products from which compiled kernels are clearly faster


class Kernels(NamedTuple):
    """The functions of one machine. Not their module: SAEs are shipped with their code to where modules are not."""

    block_dot: Callable[..., Any]
    block_sum: Callable[..., Any]
    block_gradient: Callable[..., Any]
    pair_dot: Callable[..., Any]
    pair_sum: Callable[..., Any]
    top_k: Callable[..., Any]
    largest: Callable[..., Any]


_PLAIN = Kernels(
    plain.block_dot,
    plain.block_sum,
    plain.block_gradient,
    plain.pair_dot,
    plain.pair_sum,
    plain.top_k,
    plain.largest,
)


def block_dot(
    x: Float[Tensor, "batch width"],
    table: Float[Tensor, "n s width"],
    index: Int64[Tensor, "batch q"],
) -> Float[Tensor, "batch q s"]:
    """`out[t, i, r] = x[t] · table[index[t, i], r]`."""
    kernels = pick(index.numel() * table.shape[1] * table.shape[2], x, table=table)
    return kernels.block_dot(x, table, index)  # type: ignore[no-any-return]


def block_sum(
    values: Float[Tensor, "batch q s"],
    index: Int64[Tensor, "batch q"],
    table: Float[Tensor, "n s width"],
) -> Float[Tensor, "batch width"]:
    """`out[t] = Σ_i,r values[t, i, r] · table[index[t, i], r]`."""
    kernels = pick(values.numel() * table.shape[2], values, table=table)
    return kernels.block_sum(values, index, table)  # type: ignore[no-any-return]


def block_gradient(
    x: Float[Tensor, "batch width"],
    tokens: Int64[Tensor, " pairs"],
    values: Float[Tensor, "pairs s"],
    blocks: Int64[Tensor, " pairs"],
    n: int,
) -> Float[Tensor, "n s width"]:
    """`out[blocks[p], r] += values[p, r] · x[tokens[p]]` over all pairs `p`, from zero: the gradient of a table."""
    kernels = pick(values.numel() * x.shape[1], x, values)
    return kernels.block_gradient(x, tokens, values, blocks, n)  # type: ignore[no-any-return]


def pair_dot(
    x: Float[Tensor, "batch width"],
    table: Float[Tensor, "n width"],
    tokens: Int64[Tensor, " pairs"],
    rows: Int64[Tensor, " pairs"],
) -> Float[Tensor, " pairs"]:
    """`out[p] = x[tokens[p]] · table[rows[p]]`."""
    kernels = pick(len(rows) * table.shape[1], x, table=table)
    return kernels.pair_dot(x, table, tokens, rows)  # type: ignore[no-any-return]


def pair_sum(
    values: Float[Tensor, " pairs"],
    tokens: Int64[Tensor, " pairs"],
    rows: Int64[Tensor, " pairs"],
    table: Float[Tensor, "n width"],
    batch: int,
) -> Float[Tensor, "batch width"]:
    """`out[t] = Σ values[p] · table[rows[p]]` over all `p` with `tokens[p] = t`; `tokens` ascend."""
    kernels = pick(len(rows) * table.shape[1], values, table=table)
    return kernels.pair_sum(values, tokens, rows, table, batch)  # type: ignore[no-any-return]


def top_k(pre: Float[Tensor, "batch n"], k: int) -> Int64[Tensor, "batch k"]:
    """Where the `k` largest of each row are, in any order; which of equal ones is open. NaN is larger than any."""
    return pick(pre.numel(), pre).top_k(pre, k)  # type: ignore[no-any-return]


def largest(pre: Float[Tensor, "batch n"], count: int) -> Int64[Tensor, " count"]:
    """Where the `count` largest of all are in `pre.flatten()`, ascending; which of equal ones is open."""
    return pick(pre.numel(), pre).largest(pre, count)  # type: ignore[no-any-return]


def pick(products: int, *operands: Tensor, table: Tensor | None = None) -> Kernels:
    """The kernels that are fastest for so many products of these tensors and blocks of a table.

    How many blocks the table has plays no part: of one on disk only those are copied out that are asked for, and
    results are to be the same.
    """
    tensors = operands if table is None else (*operands, table)
    if not all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors):
        return _PLAIN  # a fake one, or a part of one
    if torch.compiler.is_compiling():
        return _PLAIN  # what torch.compile can follow
    if operands[0].is_cuda:
        return _cuda() or _PLAIN
    lies_well = table is None or table.is_contiguous()
    if products < _WORTH_IT or not lies_well or not all(map(_is_float32_here, tensors)):
        return _PLAIN
    return _fast() or _PLAIN


def compiles() -> bool:
    """Whether the compiled kernels for a CPU are here; numba may be without them, where only an SAE's code is."""
    return not torch.compiler.is_compiling() and _fast() is not None


def has_numba() -> bool:
    """Whether large products on a CPU are compiled (the extra `fast`)."""
    return _HAS_NUMBA


def _is_float32_here(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def _cuda() -> Kernels | None:
    """None without Triton, which comes with torch for CUDA."""
    return _of("cuda") if _HAS_TRITON else None


def _fast() -> Kernels | None:
    return _of("fast") if _HAS_NUMBA else None


def _of(machine: str) -> Kernels | None:
    """None where only the code of an SAE was shipped."""
    try:
        found = import_module(f"hsae_hub.ops.kernels.{machine}")
    except ModuleNotFoundError:
        return None
    return Kernels(*(getattr(found, name) for name in Kernels._fields))
