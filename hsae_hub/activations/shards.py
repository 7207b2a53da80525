"""Shards of a store: written with their hashes; opened only where header and size are what `store.json` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from hsae_hub.activations.store import ShardInfo, StoreConfig, read_store, shard_name
from hsae_hub.artifact import sha256_file, write_atomic
from hsae_hub.errors import CorruptError, NotFoundError

TENSOR = "acts"
_LARGEST_HEADER = 1 << 16
_CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


class Store(NamedTuple):
    """A store whose shards have the sizes and headers that they should have."""

    folder: Path
    config: StoreConfig
    offsets: tuple[int, ...]
    """Where the values of each shard begin in its file, in bytes."""


def write_shard(path: Path, rows: Float[Tensor, "rows d_in"]) -> ShardInfo:
    """Writes one shard, flushed to disk."""
    from safetensors.torch import save_file

    write_atomic(path, lambda beside: save_file({TENSOR: rows.contiguous()}, beside))
    return ShardInfo(rows=len(rows), size=path.stat().st_size, sha256=sha256_file(path))


def open_store(folder: Path) -> Store:
    """Checks a store as far as that is cheap: `store.json`, and size and header of every shard; no value is read.

    Raises:
        NotFoundError: there is no store, or a shard is missing.
        CorruptError: a size, type or shape is not what `store.json` says.
    """
    config = read_store(folder)
    offsets = tuple(
        _offset(folder / shard_name(number), shard, config)
        for number, shard in enumerate(config.shards)
    )
    return Store(folder, config, offsets)


def _offset(path: Path, shard: ShardInfo, config: StoreConfig) -> int:
    if not path.is_file():
        raise NotFoundError(f"{path} is missing", fix=f"hsae cache info {path.parent} --verify")
    size = path.stat().st_size
    if size != shard.size:
        raise CorruptError(f"{path} has {size} bytes, expected {shard.size}")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if 2 <= length <= _LARGEST_HEADER else b""
    try:
        tensors = {
            name: dict(t) for name, t in json.loads(header).items() if name != "__metadata__"
        }
    except (ValueError, TypeError, AttributeError):
        raise CorruptError(f"{path} has no safetensors header") from None
    values = shard.rows * config.row_bytes
    expected = {
        "dtype": _CODES[config.plan.dtype],
        "shape": [shard.rows, config.d_in],
        "data_offsets": [0, values],
    }
    if tensors != {TENSOR: expected}:
        raise CorruptError(f"{path} holds {tensors}, expected {TENSOR} {expected}")
    offset = 8 + length
    if offset + values != size or offset % config.dtype.itemsize:
        raise CorruptError(f"{path}: its values begin at byte {offset}, which cannot be")
    return offset
