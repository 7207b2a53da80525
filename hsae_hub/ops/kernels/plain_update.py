"""Updates of tables from the uses of their blocks, in plain torch: a gradient exists for a few blocks at a time.

A table `[n, s, width]` has moments of its shape. `unit` keeps its rows at norm 1: of their gradient the part along a
row is dropped, and afterwards they are renormalised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

from hsae_hub.ops.constraints import normalize_rows_, project_out_rows_
from hsae_hub.ops.kernels.uses import AdamStep, Learned, Missed, Uses

_CHUNK = 1 << 17  # numbers of a gradient at a time: they stay in a core's cache
_SMALL = 1 << 12  # numbers of a block that is copied out and back rather than updated where it lies
_STRIP = 32  # rows of a matrix of columns that are updated at a time


def square_norms(uses: Uses, unit: Float[Tensor, "n s width"] | None) -> Float[Tensor, " used"]:
    """Of the gradient of each used block the sum of squares; with `unit` without the part along its unit rows."""
    found = uses.x.new_empty(len(uses.blocks))
    bags = _bags(uses)
    for start, end in _chunks(len(uses.blocks), uses.values.shape[1] * uses.x.shape[1]):
        grad = bags.rows(start, end, uses.x)
        if unit is not None:
            project_out_rows_(grad, unit[uses.blocks[start:end]])
        torch.sum(grad.square_(), (1, 2), out=found[start:end])
    return found


def adam_blocks_(
    learned: Learned,
    uses: Uses,
    adam: AdamStep,
    *,
    unit: bool,
    only_used: bool,
) -> None:
    """A step of Adam, in place; with `only_used` blocks without a use keep what they have."""
    n, s, width = learned.table.shape
    if not only_used:
        bags = _bags(_of_all(uses, n), adam.scale)
        for start, end in _chunks(n, s * width):
            here = Learned(*(x[start:end] for x in learned))
            _adam_(here, bags.rows(start, end, uses.x), adam, unit=unit)
        return
    bags = _bags(uses, adam.scale)
    alone = not unit and s * width > _SMALL
    for start, end in _chunks(len(uses.blocks), s * width):
        grad, blocks = bags.rows(start, end, uses.x), uses.blocks[start:end]
        if alone:
            table, first, second = (_where_they_lie(x, blocks) for x in learned)
            _fused_(table, first, second, list(grad.unbind()), adam)
        else:
            here = Learned(*(x.index_select(0, blocks) for x in learned))
            _adam_(here, grad, adam, unit=unit)
            for x, changed in zip(learned, here, strict=True):
                x.index_copy_(0, blocks, changed)


def adam_columns_(
    learned: Learned,
    uses: Uses,
    adam: AdamStep,
) -> None:
    """A step of Adam of a matrix whose columns are the blocks, in place."""
    width, n = learned.table.shape
    bags = _bags(_of_all(uses, n), adam.scale)
    for start in range(0, width, _STRIP):
        strip = slice(start, start + _STRIP)
        grad = bags.rows(0, n, uses.x[:, strip].contiguous())[:, 0].T.contiguous()
        _adam_(Learned(*(x[strip] for x in learned)), grad, adam, unit=False)


def catch_up_(
    learned: Learned,
    blocks: Int64[Tensor, " blocks"],
    missed: Missed,
    *,
    unit: bool,
) -> None:
    """Takes the steps that blocks have missed, in place."""
    table, first, second = learned
    for start, end in _chunks(len(blocks), table[0].numel()):
        here, kinds = blocks[start:end], missed.kinds[start:end]
        m, v, p = first[here], second[here], table[here]
        direction = m / (v.sqrt() + missed.eps[kinds, None, None])
        if unit:
            kept, moved = _renormalised(p, direction, missed.motion[kinds])
            table[here] = kept * p - moved * direction
        else:
            table[here] = p - missed.motion[kinds].sum(1).to(p)[:, None, None] * direction
        first[here] = m * missed.first[kinds, None, None]
        second[here] = v * missed.second[kinds, None, None]


def _where_they_lie(x: Float[Tensor, "n s width"], blocks: Int64[Tensor, " some"]) -> list[Tensor]:
    places = blocks.tolist()
    near = x[places[0] : places[-1] + 1].unbind()
    return [near[place - places[0]] for place in places]


def _adam_(learned: Learned, grad: Tensor, adam: AdamStep, *, unit: bool) -> None:
    if unit:
        project_out_rows_(grad, learned.table)
    _fused_([learned.table], [learned.first], [learned.second], [grad], adam)
    if unit:
        normalize_rows_(learned.table)


def _fused_(
    tables: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    grads: list[Tensor],
    adam: AdamStep,
) -> None:
    """Of scaled gradients; its own corrections of the moments' bias are those after very many steps: none."""
    torch._fused_adam_(
        tables,
        grads,
        first,
        second,
        [],
        [torch.full((), 1e9, device=grads[0].device)] * len(grads),
        lr=adam.size,
        beta1=adam.beta1,
        beta2=adam.beta2,
        weight_decay=0.0,
        eps=adam.eps,
        amsgrad=False,
        maximize=False,
    )


def _renormalised(
    p: Float[Tensor, "blocks s width"],
    direction: Float[Tensor, "blocks s width"],
    motion: Float[Tensor, "blocks steps"],
) -> tuple[Float[Tensor, "blocks s 1"], Float[Tensor, "blocks s 1"]]:
    """What multiplies a row and its direction after steps of which each is followed by a division by the norm."""
    pp, pd, dd = (
        (a.double() * b).sum(-1) for a, b in ((p, p), (p, direction), (direction, direction))
    )
    kept, moved = torch.ones_like(pp), torch.zeros_like(pp)
    for size in motion.unbind(1):
        moved = moved + size[:, None]
        norm = (
            (kept.square() * pp - 2 * kept * moved * pd + moved.square() * dd).clamp_min(0).sqrt()
        )
        norm = torch.where(norm > 0, norm, 1)
        kept, moved = kept / norm, moved / norm
    return kept[..., None].to(p.dtype), moved[..., None].to(p.dtype)


class _Bags(NamedTuple):
    """Tokens whose weighted sums are the rows of a gradient, row by row."""

    tokens: Int64[Tensor, " all"]
    weights: Float[Tensor, " all"]
    starts: Int64[Tensor, "blocks s"]
    """Of the bag of each row."""
    ends: list[int]
    """Where the bags of each block begin, and those of the last one end."""

    def rows(
        self, low: int, high: int, x: Float[Tensor, "all width"]
    ) -> Float[Tensor, "blocks s width"]:
        """The gradient of blocks `low … high - 1`."""
        first = self.ends[low]
        here = slice(first, self.ends[high])
        found = embedding_bag(
            self.tokens[here],
            x,
            (self.starts[low:high] - first).flatten(),
            per_sample_weights=self.weights[here],
            mode="sum",
        )
        return found.view(high - low, -1, x.shape[1])


def _bags(uses: Uses, scale: float = 1.0) -> _Bags:
    """A block's pairs as they are, once for each of its rows, of `scale` times the gradient."""
    s = uses.values.shape[1]
    counts = uses.starts.diff()
    starts = s * uses.starts[:-1, None] + counts[:, None] * torch.arange(s)
    ends = (s * uses.starts).tolist()
    if s == 1:
        return _Bags(uses.tokens, uses.values[:, 0] * scale, starts, ends)
    places = torch.arange(len(uses.tokens)) - uses.starts[:-1].repeat_interleave(counts)
    lies = (starts.repeat_interleave(counts, 0) + places[:, None]).flatten()
    tokens, weights = torch.empty_like(lies), uses.values.new_empty(len(lies))
    tokens[lies] = uses.tokens.repeat_interleave(s)
    weights[lies] = uses.values.flatten() * scale
    return _Bags(tokens, weights, starts, ends)


def _of_all(uses: Uses, n: int) -> Uses:
    """The same with all `n` blocks, also those without a pair."""
    counts = torch.zeros(n + 1, dtype=torch.int64)
    counts[uses.blocks + 1] = uses.starts.diff()
    return uses._replace(blocks=torch.arange(n), starts=counts.cumsum(0))


def _chunks(n: int, size: int) -> Iterator[tuple[int, int]]:
    step = max(_CHUNK // size, 1)
    return ((start, min(start + step, n)) for start in range(0, n, step))
