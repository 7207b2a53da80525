"""Products with blocks of two tables, one after the other: of a few tokens in one pass, where calls cost most."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.ops.kernels import compiles
from hsae_hub.ops.sparse import block_dot, block_sum, weighted_rows

_FEW = 4  # tokens, which hardly ever meet at a block


def chained_dot(
    x: Float[Tensor, "batch width"],
    outer: Float[Tensor, "n s width"],
    outer_index: Int64[Tensor, "batch q"],
    inner: Float[Tensor, "some m s"],
    inner_index: Int64[Tensor, "batch q"],
) -> Float[Tensor, "batch q m"]:
    """`out[t, i, c] = inner[inner_index[t, i], c] · (outer[outer_index[t, i]] x[t])`."""
    if _are_few(x, outer, inner):
        from hsae_hub.ops.kernels.chained import dots

        out = x.new_empty(*outer_index.shape, inner.shape[1])
        given = x.contiguous(), outer, outer_index, inner, inner_index, out
        dots(*(each.detach().numpy() for each in given))
        return out
    between = block_dot(x, outer, outer_index).flatten(0, 1)
    return block_dot(between, inner, inner_index.reshape(-1, 1)).view(
        *inner_index.shape, inner.shape[1]
    )


def chained_sum(
    values: Float[Tensor, "batch q"],
    inner: Float[Tensor, "rows s"],
    inner_index: Int64[Tensor, "batch q"],
    outer: Float[Tensor, "n s width"],
    outer_index: Int64[Tensor, "batch q"],
) -> Float[Tensor, "batch width"]:
    """`out[t] = Σ_i,r values[t, i] · inner[inner_index[t, i], r] · outer[outer_index[t, i], r]`."""
    if _are_few(values, outer, inner):
        from hsae_hub.ops.kernels.chained import sums

        out = values.new_empty(len(values), outer.shape[2])
        given = values.contiguous(), inner, inner_index, outer, outer_index, out
        sums(*(each.detach().numpy() for each in given))
        return out
    between = weighted_rows(values.reshape(-1, 1), inner_index.reshape(-1, 1), inner)
    return block_sum(between.view(*outer_index.shape, inner.shape[1]), outer_index, outer)


def _are_few(x: Tensor, *tables: Tensor) -> bool:
    """Few tokens of tables that nobody trains, where compiled kernels take them."""
    if not 0 < len(x) <= _FEW or (x.requires_grad and torch.is_grad_enabled()):
        return False
    if any(table.requires_grad or not table.is_contiguous() for table in tables):
        return False
    plain = all(
        type(each) in (Tensor, nn.Parameter)
        and each.dtype == torch.float32
        and each.device.type == "cpu"
        for each in (x, *tables)
    )
    return plain and compiles()
