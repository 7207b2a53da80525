"""Blocks of a table that stays on disk, of which the last used are kept in memory."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

ALIGNED = 64
"""Bytes at whose multiples torch's own tensors begin: products of rows that begin elsewhere round differently."""


def empty_blocks(shape: tuple[int, ...], dtype: torch.dtype) -> Float[Tensor, "some rows width"]:
    """Memory that begins where torch's own does, but on huge pages, which numpy asks for: it costs a sixth."""
    size = math.prod(shape) * dtype.itemsize
    raw = torch.from_numpy(np.empty(size + ALIGNED, np.uint8))
    start = -raw.data_ptr() % ALIGNED
    return raw[start : start + size].view(dtype).view(shape)


class _Chunk(NamedTuple):
    """Blocks that were read together."""

    numbers: Int64[Tensor, " some"]
    """Ascending."""
    rows: Float[Tensor, "some rows width"]


class StoredTable:
    """A table of blocks on disk, and in memory those that were read last. Several threads may ask.

    What is read at once is kept and let go together, and never changed: where a batch asks for just these blocks again,
    as decoding after encoding does, it gets them without a copy.
    """

    def __init__(
        self,
        n: int,
        capacity: int,
        read: Callable[[Int64[Tensor, " some"]], Float[Tensor, "some rows width"]],
    ) -> None:
        """`n` blocks are on disk; chunks go, the one that was not asked for the longest first, above `capacity` blocks.

        `read` gives the blocks of ascending numbers, or raises.
        """
        self._capacity = capacity
        self._read = read
        self._lock = Lock()
        self._turn = 0
        self._chunks: OrderedDict[int, _Chunk] = OrderedDict()
        self._chunk_of = torch.full((n,), -1)

    @torch.no_grad()
    def take(
        self, index: Int64[Tensor, "*i"]
    ) -> tuple[Float[Tensor, "some rows width"], Int64[Tensor, "*i"]]:
        """The blocks that are asked for, in ascending order, and which of them each index means."""
        used, place = torch.unique(index, return_inverse=True)
        if not len(used):
            return self._read(used), place
        with self._lock:
            absent = used[self._chunk_of[used] < 0]
            if len(absent):
                self._chunks[self._turn] = _Chunk(absent, self._read(absent))
                self._chunk_of[absent] = self._turn
                self._turn += 1
            found = self._gather(used)
            self._let_go()
        return found, place

    def _gather(self, used: Tensor) -> Tensor:
        chunk_of = self._chunk_of[used]
        turns = sorted(set(chunk_of.tolist()))
        chunks = [self._chunks[turn] for turn in turns]
        for turn in turns:
            self._chunks.move_to_end(turn)
        if len(chunks) == 1 and len(chunks[0].numbers) == len(used):
            return chunks[0].rows
        first = chunks[0].rows
        found = empty_blocks((len(used), *first.shape[1:]), first.dtype)
        for turn, chunk in zip(turns, chunks, strict=True):
            here = chunk_of == turn
            found[here] = chunk.rows[torch.searchsorted(chunk.numbers, used[here])]
        return found

    def _let_go(self) -> None:
        held = sum(len(chunk.numbers) for chunk in self._chunks.values())
        while held > self._capacity:
            _, chunk = self._chunks.popitem(last=False)
            self._chunk_of[chunk.numbers] = -1
            held -= len(chunk.numbers)
