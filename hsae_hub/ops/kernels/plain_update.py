"""Updates of tables from the uses of their blocks, in plain torch: a gradient exists for a few blocks at a time.

A table `[n, s, width]` has moments of its shape. `unit` keeps its rows at norm 1: of their gradient the part along a
row is dropped, and afterwards they are renormalised.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.ops.constraints import normalize_rows_, project_out_rows_
from hsae_hub.ops.kernels.uses import AdamStep, Learned, Missed, Uses

_SUM = 0  # the mode's number in the operator
_CHUNK = 1 << 19  # numbers that are updated at a time, so that they stay in a core's cache
_STRIP = 256  # rows of a matrix of columns that are updated at a time


def square_norms(uses: Uses, unit: Float[Tensor, "n s width"] | None) -> Float[Tensor, " used"]:
    """Of the gradient of each used block the sum of squares; with `unit` without the part along its unit rows."""
    found = uses.x.new_empty(len(uses.blocks))
    for start, end in _chunks(len(uses.blocks), uses.values.shape[1] * uses.x.shape[1]):
        grad = _gradient(uses, start, end)
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
    if only_used:
        for start, end in _chunks(len(uses.blocks), s * width):
            blocks = uses.blocks[start:end]
            grad = _gradient(uses, start, end)
            if unit:
                project_out_rows_(grad, learned.table[blocks])
            places = blocks.tolist()
            table, first, second = ([x[place] for place in places] for x in learned)
            _fused_(table, first, second, list(grad.unbind()), adam)
            if unit:
                rows = learned.table[blocks]
                normalize_rows_(rows)
                learned.table[blocks] = rows
        return
    for start, end in _chunks(n, s * width):
        low, high = torch.searchsorted(uses.blocks, torch.tensor([start, end])).tolist()
        grad = _gradient(uses, low, high, (start, end))
        _adam_(Learned(*(x[start:end] for x in learned)), grad, adam, unit=unit)


def adam_columns_(
    learned: Learned,
    uses: Uses,
    adam: AdamStep,
) -> None:
    """A step of Adam of a matrix whose columns are the blocks, in place."""
    width, n = learned.table.shape
    for start in range(0, width, _STRIP):
        strip = slice(start, min(start + _STRIP, width))
        part = uses._replace(x=uses.x[:, strip].contiguous())
        grad = _gradient(part, 0, len(uses.blocks), (0, n))[:, 0].T.contiguous()
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
    """Its own corrections of the moments' bias are those after very many steps: none."""
    if adam.scale != 1:
        torch._foreach_mul_(grads, adam.scale)
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


def _gradient(
    uses: Uses, low: int, high: int, block_range: tuple[int, int] | None = None
) -> Float[Tensor, "blocks s width"]:
    """The gradient of the used blocks `low … high - 1`, one after another, or in their places in a range of blocks."""
    pairs = slice(int(uses.starts[low]), int(uses.starts[high]))
    counts = uses.starts[low : high + 1].diff()
    if block_range is None:
        places, n = torch.arange(high - low), high - low
    else:
        places, n = uses.blocks[low:high] - block_range[0], block_range[1] - block_range[0]
    s, width = uses.values.shape[1], uses.x.shape[1]
    rows = (places.repeat_interleave(counts)[:, None] * s + torch.arange(s)).flatten()
    tokens = uses.tokens[pairs].repeat_interleave(s)
    sizes = tokens.new_ones(len(uses.x))
    grad = torch.ops.aten._embedding_bag_dense_backward(
        uses.x, rows, tokens, sizes, sizes, n * s, False, _SUM, uses.values[pairs].flatten()
    )
    return grad.view(n, s, width)  # type: ignore[no-any-return]


def _chunks(n: int, size: int) -> Iterator[tuple[int, int]]:
    step = max(_CHUNK // size, 1)
    return ((start, min(start + step, n)) for start in range(0, n, step))
