"""Memory-mapped shards, as many as there are: none keeps a file open."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

Rows = UInt8[np.ndarray, "rows row_bytes"]
"""Rows as bytes."""


def map_shard(path: Path, offset: int, rows: int, row_bytes: int) -> Rows:
    """The rows of a file that begin at a byte, as a view of its pages; the file has to have them."""
    size = offset + rows * row_bytes
    whole = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    return whole[offset:].reshape(rows, row_bytes)


def will_need(path: Path, offset: int, size: int) -> None:
    """Asks the system to read a part of a file into memory meanwhile, where it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, offset, size, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(handle)
