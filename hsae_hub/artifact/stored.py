"""A weight file that is used where it lies."""

from __future__ import annotations

import json
import math
import os
import weakref
from pathlib import Path
from threading import Lock

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.artifact.tensors import check_finite
from hsae_hub.errors import CorruptError

_AT_ONCE = (
    1 << 21
)  # bytes that are read before they are looked at and turned: they stay in a core's cache


class StoredWeights:
    """An open safetensors file whose header was checked (`check_files`), read in parts. Several threads may read.

    A file that gets shorter meanwhile makes an error of the next read. Of what is mapped into memory instead, a page
    that is no longer there ends the process with SIGBUS when it is touched: `check` before every use leaves that to
    files that are cut within such a use, and to disks that fail.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)  # this file, whatever takes its name later
        weakref.finalize(self, self._file.close)
        self._lock = Lock()
        self._size = self._file.seek(0, 2)
        self._file.seek(0)
        length = int.from_bytes(self._file.read(8), "little")
        header = json.loads(self._file.read(length))
        self._starts = {
            name: 8 + length + tensor["data_offsets"][0]
            for name, tensor in header.items()
            if name != "__metadata__"
        }

    def read_blocks(
        self,
        name: str,
        dtype: torch.dtype,
        numbers: Int64[Tensor, " some"],
        into: Float[Tensor, "some rows width"],
    ) -> None:
        """Fills a tensor with blocks of a table, which is stored in `dtype`.

        Raises:
            CorruptError: the file has no longer that many bytes, or a value is not finite.
        """
        size = math.prod(into.shape[1:]) * dtype.itemsize
        at_once = max(_AT_ONCE // size, 1)
        data = torch.empty(at_once, *into.shape[1:], dtype=dtype)
        raw = data.view(torch.uint8).numpy().reshape(-1).data
        for start in range(0, len(numbers), at_once):
            part = numbers[start : start + at_once].tolist()
            for i, number in enumerate(part):
                self._read(self._starts[name] + number * size, raw[i * size : (i + 1) * size])
            check_finite(f"{self.path}: {name}", data[: len(part)])
            into[start : start + at_once] = data[: len(part)]

    def _read(self, at: int, into: memoryview) -> None:
        with self._lock:
            self._file.seek(at)
            while into:
                got = self._file.readinto(into)
                if not got:
                    self.check()
                into = into[got:]

    def check(self) -> None:
        """Compares the size of the file with that at the start.

        Raises:
            CorruptError: it is another one.
        """
        size = os.fstat(self._file.fileno()).st_size
        if size != self._size:
            raise CorruptError(
                f"{self.path} has {size} bytes, but had {self._size} when it was opened",
                why="it was changed while its weights were in use",
                fix="pull or copy it again, and load it again",
            )
