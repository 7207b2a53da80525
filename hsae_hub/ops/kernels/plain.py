"""The kernels in plain torch, on any device: what the others are compared with.

The operators are those that run behind embedding_bag; no public name reaches two of them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

_SUM = 0  # the mode's number in the operators


def block_dot(
    x: Float[Tensor, "batch width"],
    table: Float[Tensor, "n s width"],
    index: Int64[Tensor, "batch q"],
) -> Float[Tensor, "batch q s"]:
    s = table.shape[1]
    rows, starts, bags = _bags(index, s)
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        x.contiguous(), table.flatten(0, 1), rows, starts, bags, _SUM
    )
    return dots.view(*index.shape, s)  # type: ignore[no-any-return]


def block_sum(
    values: Float[Tensor, "batch q s"],
    index: Int64[Tensor, "batch q"],
    table: Float[Tensor, "n s width"],
) -> Float[Tensor, "batch width"]:
    rows, starts, _ = _bags(index, table.shape[1])
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


def top_k(pre: Float[Tensor, "batch n"], k: int) -> Int64[Tensor, "batch k"]:
    return pre.topk(k, sorted=False).indices


def _bags(index: Tensor, s: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the blocks one after another, where each token's begin, and the token of each."""
    batch, q = index.shape
    tokens = torch.arange(batch, device=index.device)
    return _rows(index, s), tokens * (q * s), tokens.repeat_interleave(q * s)


def _rows(blocks: Tensor, s: int) -> Tensor:
    rows = blocks if s == 1 else blocks[..., None] * s + torch.arange(s, device=blocks.device)
    return rows.reshape(-1)
