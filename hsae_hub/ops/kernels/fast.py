"""The kernels for a CPU, compiled by numba: tokens meet at a block, which is read from memory once for all of them.

Pairs of a token and a block are grouped by block, blocks in the order in which they come. Sums over blocks are taken in
that order, sums over a width in one that depends on the width alone: neither the number of threads nor how blocks are
numbered changes a bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.ops.kernels import loops, plain, selecting
from hsae_hub.ops.kernels.compiling import spread, threads_for

_SHORT = 16  # width up to which blocks are not read in order: each is a few lines of the cache
_FEW = 128  # pairs, of each of which the block is looked for among those before
_COUNT_FROM = 100  # blocks a pair: with more of them pairs are sorted first


class Runs(NamedTuple):
    """Pairs, numbered `token · q + i`, in runs of one block."""

    order: Any
    """Pairs."""
    blocks: Any
    """The block of each run."""
    starts: Any
    """Where each run starts in `order`, and where the last one ends."""

    @staticmethod
    def of(index: Tensor, n: int) -> Runs:
        flat = _array(index).reshape(-1)
        if len(flat) <= _FEW:
            return Runs(*loops.group_few(flat))
        if n <= _COUNT_FROM * len(flat):
            return Runs(*loops.group(flat, n)[:3])
        used, places = np.unique(flat, return_inverse=True)
        order, blocks, starts, _ = loops.group(places.reshape(-1), len(used))
        return Runs(order, used[blocks], starts)

    def bounds(self, threads: int) -> list[int]:
        """Where runs are cut so that each thread has about as many pairs."""
        wanted = np.arange(1, threads) * len(self.order) // threads
        return [0, *np.searchsorted(self.starts, wanted).tolist(), len(self.blocks)]


def block_dot(
    x: Float[Tensor, "batch width"],
    table: Float[Tensor, "n s width"],
    index: Int64[Tensor, "batch q"],
) -> Float[Tensor, "batch q s"]:
    n, s, width = table.shape
    out = x.new_empty(*index.shape, s)
    threads = threads_for(out.numel() * width)
    if width <= _SHORT:
        short = _array(x), _array(table), _array(index), _array(out)
        spread(lambda first, last: loops.short_dots(*short, first, last), len(x), threads)
        return out
    if s == 1:
        tokens = np.repeat(np.arange(len(index)), index.shape[1])
        _row_dots(x, table[:, 0], tokens, index, out)
        return out
    runs = Runs.of(index, n)
    bounds = runs.bounds(threads)
    arrays = _array(x), _array(table), _array(out).reshape(-1, s)

    def work(first: int, last: int) -> None:
        loops.dots(*arrays, index.shape[1], *runs, bounds[first], bounds[last])

    spread(work, threads, threads)
    return out


def block_sum(
    values: Float[Tensor, "batch q s"],
    index: Int64[Tensor, "batch q"],
    table: Float[Tensor, "n s width"],
) -> Float[Tensor, "batch width"]:
    n, s, width = table.shape
    batch, q = index.shape
    out = table.new_empty(batch, width)
    threads = threads_for(values.numel() * width)
    if s == 1:
        _row_sums(values, index, np.arange(batch + 1) * q, table[:, 0], out)
        return out
    runs = Runs.of(index, n)
    arrays = _array(values).reshape(-1, s), _array(table), _array(out)

    def work(first: int, last: int) -> None:
        loops.sums(*arrays, q, *runs, first, last)

    spread(work, width, threads)
    return out


def block_gradient(
    x: Float[Tensor, "batch width"],
    tokens: Int64[Tensor, " pairs"],
    values: Float[Tensor, "pairs s"],
    blocks: Int64[Tensor, " pairs"],
    n: int,
) -> Float[Tensor, "n s width"]:
    s, width = values.shape[1], x.shape[1]
    out = x.new_empty(n, s, width)
    order, _, starts, runs = loops.group(_array(blocks), n)
    grouped = order, starts, runs
    arrays = _array(x), _array(tokens), _array(values), _array(out)
    threads = threads_for(values.numel() * width + out.numel())
    spread(lambda first, last: loops.gradients(*arrays, *grouped, first, last), n, threads)
    return out


def pair_dot(
    x: Float[Tensor, "batch width"],
    table: Float[Tensor, "n width"],
    tokens: Int64[Tensor, " pairs"],
    rows: Int64[Tensor, " pairs"],
) -> Float[Tensor, " pairs"]:
    out = x.new_empty(len(rows))
    _row_dots(x, table, _array(tokens), rows, out)
    return out


def pair_sum(
    values: Float[Tensor, " pairs"],
    tokens: Int64[Tensor, " pairs"],
    rows: Int64[Tensor, " pairs"],
    table: Float[Tensor, "n width"],
    batch: int,
) -> Float[Tensor, "batch width"]:
    out = table.new_empty(batch, table.shape[1])
    starts = np.searchsorted(_array(tokens), np.arange(batch + 1))
    _row_sums(values, rows, starts, table, out)
    return out


def top_k(pre: Float[Tensor, "batch n"], k: int) -> Int64[Tensor, "batch k"]:
    batch, n = pre.shape
    if not 0 < 2 * k * plain.GROUP <= n:  # most groups have one of the largest
        return plain.top_k(pre, k)
    out = torch.empty(batch, k, dtype=torch.int64)
    found = np.empty(batch, dtype=np.bool_)
    arrays = _array(pre), _array(out), found
    spread(
        lambda first, last: selecting.largest(*arrays, first, last), batch, threads_for(pre.numel())
    )
    if not found.all():  # rows with a NaN
        rest = torch.from_numpy(~found)
        out[rest] = plain.top_k(pre[rest], k)
    return out


def largest(pre: Float[Tensor, "batch n"], count: int) -> Int64[Tensor, " count"]:
    return plain.largest(pre, count)


def _row_dots(x: Tensor, table: Tensor, tokens: Any, rows: Tensor, out: Tensor) -> None:
    threads = threads_for(out.numel() * table.shape[1])
    runs = Runs.of(rows, len(table))
    bounds = runs.bounds(threads)
    arrays = _array(x), _array(table), tokens, _array(out).reshape(-1)

    def work(first: int, last: int) -> None:
        loops.row_dots(*arrays, *runs, bounds[first], bounds[last])

    spread(work, threads, threads)


def _row_sums(values: Tensor, rows: Tensor, starts: Any, table: Tensor, out: Tensor) -> None:
    """Rows of token `t` are those of `starts[t] … starts[t + 1] - 1`."""
    threads = threads_for(values.numel() * table.shape[1])
    arrays = (
        _array(values).reshape(-1),
        _array(rows).reshape(-1),
        starts,
        *map(_array, (table, out)),
    )
    spread(lambda first, last: loops.row_sums(*arrays, first, last), len(out), threads)


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()
