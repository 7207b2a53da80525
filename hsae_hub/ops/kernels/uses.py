"""What an update of a table is made from: its gradient as uses of its blocks, its moments, Adam's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class BlockGradient(NamedTuple):
    """`out[blocks[p], r] += values[p, r] · x[tokens[p]]` over all pairs `p`: the gradient of a table of blocks."""

    x: Float[Tensor, "batch width"]
    tokens: Int64[Tensor, " pairs"]
    values: Float[Tensor, "pairs s"]
    blocks: Int64[Tensor, " pairs"]
    columns: bool = False
    """Whether the table is a matrix `[width, n]`, whose columns are blocks of one row."""

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "batch width"],
        values: Float[Tensor, "batch q s"],
        index: Int64[Tensor, "batch q"],
        *,
        columns: bool = False,
    ) -> BlockGradient:
        """Of pairs of which each token has as many."""
        tokens = torch.arange(len(index), device=index.device).repeat_interleave(index.shape[1])
        return cls(x, tokens, values.flatten(0, 1), index.flatten(), columns)


class Uses(NamedTuple):
    """A gradient `out[blocks[u], r] = Σ values[p, r] · x[tokens[p]]` over `p` in `starts[u] … starts[u + 1] - 1`."""

    x: Float[Tensor, "all width"]
    tokens: Int64[Tensor, " pairs"]
    values: Float[Tensor, "pairs s"]
    blocks: Int64[Tensor, " used"]
    """In ascending order."""
    starts: Int64[Tensor, " ends"]


class Learned(NamedTuple):
    """A table and what Adam remembers of it, all of them blocks `[n, s, width]` or columns `[width, n]`."""

    table: Float[Tensor, "*shape"]
    first: Float[Tensor, "*shape"]
    second: Float[Tensor, "*shape"]


class AdamStep(NamedTuple):
    """`m ← β₁m + (1-β₁)g`, `v ← β₂v + (1-β₂)g²`, `p ← p - size · m / (√v + eps)`; `g` is `scale` times the gradient.

    `size` and `eps` hold the corrections of the moments' bias.
    """

    size: float
    eps: float
    beta1: float
    beta2: float
    scale: float


class Missed(NamedTuple):
    """Steps without a gradient that blocks have not taken yet, of as many kinds as there are gaps.

    In the `i`-th of them a block moves by `-motion[kind, i] · m / (√v + eps[kind])`, with its moments as they are.
    """

    kinds: Int64[Tensor, " blocks"]
    motion: Float[Tensor, "kinds steps"]
    eps: Float[Tensor, " kinds"]
    first: Float[Tensor, " kinds"]
    """What is left of `m` after all of them."""
    second: Float[Tensor, " kinds"]
    """What is left of `v`."""


def sort_uses(parts: Sequence[BlockGradient], n: int) -> Uses:
    """The uses of a table's `n` blocks, block by block and in a block as they came.

    On a CPU those that add nothing are left out, and blocks without any; to know them one would have to wait for a GPU.
    """
    tokens, start = [], 0
    for part in parts:
        tokens.append(part.tokens + start if start else part.tokens)
        start += len(part.x)
    x = _joined([part.x for part in parts]).contiguous()
    values = _joined([part.values for part in parts])
    blocks = _joined([part.blocks for part in parts])
    uses_of = of_every_block if x.is_cuda else _of_used_blocks
    return uses_of(x, _joined(tokens), values, blocks, n)


def of_every_block(x: Tensor, tokens: Tensor, values: Tensor, blocks: Tensor, n: int) -> Uses:
    """Of pairs in any order; nothing is left out."""
    order, starts = by_block(blocks, n)
    return Uses(x, tokens[order], values[order], torch.arange(n, device=x.device), starts)


def by_block(
    blocks: Int64[Tensor, " pairs"], n: int
) -> tuple[Int64[Tensor, " pairs"], Int64[Tensor, " ends"]]:
    """Pairs in the order of their blocks, those of a block as they came; where each of `n` blocks begins, and the end.

    Keys have two bytes where they do: a GPU's radix sort takes a pass for each.
    """
    kind = torch.int16 if n < 2**15 else torch.int32
    ordered, order = blocks.to(kind).sort(stable=True)
    every = torch.arange(n + 1, dtype=kind, device=blocks.device)
    return order, torch.searchsorted(ordered, every)


def _of_used_blocks(x: Tensor, tokens: Tensor, values: Tensor, blocks: Tensor, n: int) -> Uses:
    (kept,) = values.any(1).nonzero(as_tuple=True)
    blocks, order = blocks[kept].sort(stable=True)
    kept = kept[order]
    used, counts = torch.unique_consecutive(blocks, return_counts=True)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Uses(x, tokens[kept], values[kept], used, starts)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
