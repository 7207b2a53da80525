"""The kernels in plain torch, on any device: what the others are compared with.

The operators are those that run behind embedding_bag; no public name reaches two of them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

_SUM = 0  # the mode's number in the operators
GROUP = 32
"""Entries of a group of which the largest is looked at first."""


def block_dot(
    x: Float[Tensor, "batch width"],
    table: Float[Tensor, "n s width"],
    index: Int64[Tensor, "batch q"],
) -> Float[Tensor, "batch q s"]:
    s = table.shape[1]
    rows = _rows(index, s)
    tokens = torch.arange(len(index), device=index.device)
    tokens = tokens.repeat_interleave(index.shape[1] * s)
    return pair_dot(x, table.flatten(0, 1), tokens, rows).view(*index.shape, s)


def block_sum(
    values: Float[Tensor, "batch q s"],
    index: Int64[Tensor, "batch q"],
    table: Float[Tensor, "n s width"],
) -> Float[Tensor, "batch width"]:
    rows = _rows(index, table.shape[1])
    starts = torch.arange(len(index), device=index.device) * (index.shape[1] * table.shape[1])
    weights = values.reshape(-1)
    return embedding_bag(rows, table.flatten(0, 1), starts, per_sample_weights=weights, mode="sum")


def block_gradient(
    x: Float[Tensor, "batch width"],
    tokens: Int64[Tensor, " pairs"],
    values: Float[Tensor, "pairs s"],
    blocks: Int64[Tensor, " pairs"],
    n: int,
) -> Float[Tensor, "n s width"]:
    s = values.shape[1]
    rows = _rows(blocks, s)
    bags = tokens if s == 1 else tokens.repeat_interleave(s)
    sizes = tokens.new_ones(len(x))  # of bags: sums do not look at them
    grad = torch.ops.aten._embedding_bag_dense_backward(
        x.contiguous(), rows, bags, sizes, sizes, n * s, False, _SUM, values.reshape(-1)
    )
    return grad.view(n, s, x.shape[1])  # type: ignore[no-any-return]


def pair_dot(
    x: Float[Tensor, "batch width"],
    table: Float[Tensor, "n width"],
    tokens: Int64[Tensor, " pairs"],
    rows: Int64[Tensor, " pairs"],
) -> Float[Tensor, " pairs"]:
    start = rows.new_zeros(1)  # of bags, of which `tokens` tell
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(  # type: ignore[no-any-return]
        x.contiguous(), table, rows, start, tokens, _SUM
    )


def pair_sum(
    values: Float[Tensor, " pairs"],
    tokens: Int64[Tensor, " pairs"],
    rows: Int64[Tensor, " pairs"],
    table: Float[Tensor, "n width"],
    batch: int,
) -> Float[Tensor, "batch width"]:
    starts = torch.searchsorted(tokens, torch.arange(batch, device=tokens.device))
    return embedding_bag(rows, table, starts, per_sample_weights=values, mode="sum")


def top_k(pre: Float[Tensor, "batch n"], k: int) -> Int64[Tensor, "batch k"]:
    return pre.topk(k, sorted=False).indices


def largest(pre: Float[Tensor, "batch n"], count: int) -> Int64[Tensor, " count"]:
    flat = pre.flatten()
    few = _no_less_than_the_largest(pre, count)
    if few is None:
        return flat.topk(count, sorted=False).indices.sort().values
    return few[flat[few].topk(count, sorted=False).indices.sort().values]


def _no_less_than_the_largest(pre: Tensor, count: int) -> Tensor | None:
    """Places, ascending, of all that are no less than the least of the `count` largest maxima of groups.

    The `count` largest of all are among these. None where they are not worth looking for, or there are NaNs.
    """
    batch, n = pre.shape
    groups = n // GROUP
    if pre.is_meta or 2 * count > batch * groups:
        return None
    parts = pre[:, : groups * GROUP].unflatten(1, (GROUP, groups))  # type: ignore[no-untyped-call]
    maxima = parts.amax(1)
    each = torch.cat([maxima.flatten(), pre[:, groups * GROUP :].flatten()])
    least = each.topk(count, sorted=False).values.amin()
    if least.isnan():
        return None
    return (pre.flatten() >= least).nonzero()[:, 0]


def _rows(blocks: Tensor, s: int) -> Tensor:
    """Rows of the blocks one after another."""
    rows = blocks if s == 1 else blocks[..., None] * s + torch.arange(s, device=blocks.device)
    return rows.reshape(-1)
