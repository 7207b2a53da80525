"""An external shuffle: rows go to random files on disk, and each file is small enough to be shuffled in memory.

The files, each shuffled, one after the other, are a uniformly random order of all rows (Rao 1961, Sandelius 1962).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from hsae_hub.activations.mapping import Rows
from hsae_hub.artifact import flush
from hsae_hub.errors import CorruptError

BUFFER_BYTES = 1 << 28
"""Rows are kept in memory up to this, so that many files get few and long writes."""


def bucket_of(seed: int, start: int, n: int, n_buckets: int) -> Int64[np.ndarray, " n"]:
    """Buckets of rows `start` to `start + n`: each follows from the seed and the row's own number alone."""
    bits = np.random.Philox(key=seed)
    bits.advance(start // 4)  # four words a step
    words = bits.random_raw(start % 4 + n)[start % 4 :]
    return ((words >> np.uint64(32)) * np.uint64(n_buckets) >> np.uint64(32)).astype(np.int64)


class Buckets:
    """Files of rows in a folder. What was written after the last `commit` is cut off when another one goes on."""

    def __init__(self, folder: Path, n_buckets: int, row_bytes: int, *, seed: int) -> None:
        self.folder = folder
        self.rows = [0] * n_buckets
        """Rows in each file."""
        self.added = 0
        """Rows so far."""
        self._seed = seed
        self._row_bytes = row_bytes
        self._buffer = np.empty((max(1, BUFFER_BYTES // row_bytes), row_bytes), np.uint8)
        self._buffered = 0
        self._written: set[int] = set()

    def add(self, rows: Rows) -> None:
        """Adds the next rows."""
        while len(rows):
            taken = rows[: len(self._buffer) - self._buffered]
            self._buffer[self._buffered : self._buffered + len(taken)] = taken
            self._buffered += len(taken)
            self.added += len(taken)
            rows = rows[len(taken) :]
            if self._buffered == len(self._buffer):
                self._write()

    def commit(self) -> None:
        """Lets all rows so far reach the disk; `rows` is what is needed to go on from here."""
        self._write()
        for bucket in sorted(self._written):
            flush(self._path(bucket))
        if self._written:
            flush(self.folder)
        self._written.clear()

    def cut(self, rows: list[int]) -> None:
        """Cuts the files back to what they held at a commit.

        Raises:
            CorruptError: a file holds less.
        """
        self.rows = list(rows)
        self.added = sum(rows)
        for bucket, n in enumerate(rows):
            path, size = self._path(bucket), n * self._row_bytes
            found = path.stat().st_size if path.exists() else 0
            if found < size:
                raise _lost(path, found, size)
            if found > size:
                os.truncate(path, size)

    def read(self, buckets: Iterable[int]) -> Rows:
        """The rows of some files.

        Raises:
            CorruptError: a file does not hold what was written.
        """
        wanted = [bucket for bucket in buckets if self.rows[bucket]]
        found = np.empty((sum(self.rows[bucket] for bucket in wanted), self._row_bytes), np.uint8)
        at = 0
        for bucket in wanted:
            path, part = self._path(bucket), found[at : at + self.rows[bucket]]
            size = path.stat().st_size if path.exists() else 0
            if size != part.nbytes:
                raise _lost(path, size, part.nbytes)
            with path.open("rb", buffering=0) as file:
                view = part.data.cast("B")
                while view and (n := file.readinto(view)):  # one read gives 2 GB at most
                    view = view[n:]
            at += len(part)
        return found

    def remove(self, buckets: Iterable[int]) -> None:
        """Gives the room of some files back."""
        for bucket in buckets:
            self._path(bucket).unlink(missing_ok=True)

    def _write(self) -> None:
        if not self._buffered:
            return
        buckets = bucket_of(self._seed, self.added - self._buffered, self._buffered, len(self.rows))
        order = buckets.argsort(kind="stable")
        found, starts = np.unique(buckets[order], return_index=True)
        for bucket, rows in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
            with self._path(bucket).open("ab", buffering=0) as file:
                view = self._buffer[rows].data.cast("B")
                while view:
                    view = view[file.write(view) :]
            self.rows[bucket] += len(rows)
            self._written.add(bucket)
        self._buffered = 0

    def _path(self, bucket: int) -> Path:
        return self.folder / f"bucket-{bucket:05d}.bin"


def _lost(path: Path, found: int, expected: int) -> CorruptError:
    return CorruptError(
        f"{path} has {found} bytes, expected {expected}",
        why="another process harvested into the same folder, or the disk lost something",
        fix=f"remove {path.parent.parent} and start again",
    )
