"""Batches of activations from a store on disk, memory-mapped and read ahead in a thread, without a language model."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.activations.batches import StreamState, epoch_order
from hsae_hub.activations.mapping import Rows, map_shard, will_need
from hsae_hub.activations.shards import Store, open_store
from hsae_hub.activations.store import shard_name
from hsae_hub.activations.stream import NORM_SAMPLE
from hsae_hub.errors import CorruptError, UsageError
from hsae_hub.ops import collective
from hsae_hub.ops.collective import Part

AHEAD = 2
"""Batches that are read ahead."""
BLOCK_BYTES = 1 << 20
"""Rows that are read together, at most: enough for a disk's full speed in any order."""
BLOCKS_A_BATCH = 16
"""Blocks of a batch, at least: a later epoch mixes its batches anew."""


class CachedStream:
    """Batches of the rows of a store, epoch after epoch, each row once an epoch.

    An epoch is all blocks of consecutive rows in an order that follows from the seed and the epoch's number; within a
    block, rows are in the random order that the store was written in. So a position is one number. Values are those
    that a language model would give to `ActivationStream`, in the store's type.

    Of several processes each is handed out, and reads, its own `part` of every batch. `tokens` and the saved position
    count the rows of all, so that a run may go on with another number of processes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        part: Part | None = None,
    ) -> None:
        """
        Raises:
            NotFoundError: there is no store.
            CorruptError: a size, type or shape is not what `store.json` says.
            UsageError: the store has fewer rows than a batch.
        """
        store = open_store(folder)
        if store.config.activations < batch_size:
            raise UsageError(
                f"the store has {store.config.activations} activations, expected at least "
                f"train.batch_size (={batch_size})",
                fix="harvest more, or --set train.batch_size=N",
            )
        self.batch_size = batch_size
        self.d_in = store.config.d_in
        self.origin = store.config.origin
        self.tokens = 0
        """Activations handed out so far to all processes, repeats counted."""
        self.wait_seconds = 0.0
        """Time spent on waiting for the disk."""
        self._device = torch.device(device)
        self._fingerprint = store.config.fingerprint
        self._part = (part or collective.part()).rows(batch_size)
        self._reader = _Reader(store, batch_size, seed, pin=self._device.type == "cuda")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._ahead: deque[Future[Tensor]] = deque()

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self._device

    def fill(self) -> None:
        """Waits until the next batch is there."""
        started = time.perf_counter()
        self._read_ahead()
        self._ahead[0].result()
        self.wait_seconds += time.perf_counter() - started

    def norm_sample(self) -> Float[Tensor, "sample d_in"]:
        """The next `NORM_SAMPLE` activations, rounded up to whole batches, the same in every process."""
        started = time.perf_counter()
        self._forget()
        batches = range(math.ceil(NORM_SAMPLE / self.batch_size))
        everything = slice(0, self.batch_size)
        read = [
            self._thread.submit(self._reader.batch, self.tokens + i * self.batch_size, everything)
            for i in batches
        ]
        sample = torch.cat([future.result() for future in read])
        self.tokens += len(sample)
        self.wait_seconds += time.perf_counter() - started
        return sample.to(self._device)

    def next_batch(self) -> Float[Tensor, "batch d_in"]:
        """The next activations, in the store's type."""
        self.fill()
        batch = self._ahead.popleft().result()
        self.tokens += self.batch_size
        self._read_ahead()
        return batch.to(self._device, non_blocking=True)

    def state_dict(self) -> StreamState:
        """Where the stream stands; what was read ahead is not in it."""
        values = {
            "tokens": self.tokens,
            "wait_seconds": self.wait_seconds,
            "store": self._fingerprint,
        }
        return StreamState(values, {})

    def load_state_dict(self, state: StreamState) -> None:
        """Goes on where another stream of the same store stood.

        Raises:
            CorruptError: the store is not the one that it was.
        """
        if state.values.get("store") != self._fingerprint:
            raise CorruptError(
                "the store is not the one that this run began with",
                why="its shards have other hashes",
                fix="put that one back, or start again in another folder",
            )
        self.tokens = state.values["tokens"]
        self.wait_seconds = state.values["wait_seconds"]
        self._forget()

    def close(self) -> None:
        """Stops reading ahead. It happens by itself where a stream is no longer used."""
        self._thread.shutdown(cancel_futures=True)

    def _read_ahead(self) -> None:
        while len(self._ahead) < AHEAD:
            at = self.tokens + len(self._ahead) * self.batch_size
            self._ahead.append(self._thread.submit(self._reader.batch, at, self._part))

    def _forget(self) -> None:
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()


class _Run(NamedTuple):
    """Consecutive rows of a shard."""

    shard: int
    first: int
    rows: int


class _Reader:
    """Rows by their place in the endless sequence of a store's epochs. One thread uses it."""

    def __init__(self, store: Store, batch_size: int, seed: int, *, pin: bool) -> None:
        self._store = store
        self._batch_size = batch_size
        self._seed = seed
        self._pin = pin
        self._maps: dict[int, Rows] = {}
        row_bytes = store.config.row_bytes
        self._block = max(1, min(BLOCK_BYTES // row_bytes, batch_size // BLOCKS_A_BATCH))
        rows = np.array([shard.rows for shard in store.config.shards])
        blocks = -(-rows // self._block)
        self._starts = np.concatenate([[0], blocks.cumsum()])
        self._sizes = np.full(self._starts[-1], self._block)
        self._sizes[self._starts[1:] - 1] = rows - (blocks - 1) * self._block
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._announced = -1

    def batch(self, at: int, part: slice) -> Float[Tensor, "part d_in"]:
        """A part of the global rows `at` to `at + batch_size`."""
        if self._announced != at:
            self._announce(at, part)
        self._announced = at + self._batch_size
        self._announce(self._announced, part)
        config = self._store.config
        shape = (part.stop - part.start, config.row_bytes)
        if self._pin:
            out = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        else:
            out = torch.from_numpy(np.empty(shape, np.uint8))  # numpy's are on huge pages
        into, done = out.numpy(), 0
        for shard, first, rows in self._runs(at, part):
            into[done : done + rows] = self._map(shard)[first : first + rows]
            done += rows
        return out.view(config.dtype)

    def _announce(self, at: int, part: slice) -> None:
        """Lets the disk begin on a batch."""
        row_bytes = self._store.config.row_bytes
        for shard, first, rows in self._runs(at, part):
            start = self._store.offsets[shard] + first * row_bytes
            will_need(self._path(shard), start, rows * row_bytes)

    def _runs(self, at: int, part: slice) -> Iterator[_Run]:
        at, stop = at + part.start, at + part.stop
        total = self._store.config.activations
        while at < stop:
            epoch, within = divmod(at, total)
            order, ends = self._order(epoch)
            i = int(np.searchsorted(ends, within, side="right"))
            while at < stop and i < len(order):
                block = int(order[i])
                skipped = within - int(ends[i] - self._sizes[block])
                rows = min(int(self._sizes[block]) - skipped, stop - at)
                shard = int(np.searchsorted(self._starts, block, side="right")) - 1
                first = (block - int(self._starts[shard])) * self._block + skipped
                yield _Run(shard, first, rows)
                at, within, i = at + rows, within + rows, i + 1

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks of an epoch, and the rows up to the end of each."""
        if epoch not in self._epochs:
            order = epoch_order(len(self._sizes), self._seed, epoch).numpy()
            self._epochs = {k: v for k, v in self._epochs.items() if k == epoch - 1}
            self._epochs[epoch] = order, self._sizes[order].cumsum()
        return self._epochs[epoch]

    def _map(self, shard: int) -> Rows:
        if shard not in self._maps:
            config = self._store.config
            self._maps[shard] = map_shard(
                self._path(shard),
                self._store.offsets[shard],
                config.shards[shard].rows,
                config.row_bytes,
            )
        return self._maps[shard]

    def _path(self, shard: int) -> Path:
        return self._store.folder / shard_name(shard)
