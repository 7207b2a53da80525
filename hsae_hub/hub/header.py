"""The header of a safetensors file: a length of 8 bytes, then JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hsae_hub.errors import CorruptError
from hsae_hub.hub.places import Tensor

LIMIT = 1 << 24
"""Largest header that is read of a file on this machine, in bytes."""
REMOTE_LIMIT = 1 << 17
"""Largest one that is read of a file on a hub, in bytes: a tensor takes about a hundred."""
_FIRST = 1 << 13  # bytes that are asked for first: the header of most SAEs


class Header(NamedTuple):
    """A header as it is written, and what it says."""

    text: bytes
    tensors: list[Tensor]


def read_header(path: Path, where: str) -> Header:
    """Reads the header of a file on this machine; `where` names it in errors.

    Raises:
        CorruptError: it is none.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 2 <= length <= LIMIT else b""
    return _parsed(text, where)


def read_remote_header(read: Callable[[int, int], bytes], size: int, where: str) -> Header:
    """Reads the header of a file of `size` bytes of which `read` gives the bytes from one place up to another.

    Raises:
        CorruptError: it is none, or too long for one of an SAE.
    """
    head = read(0, min(_FIRST, size))
    length = int.from_bytes(head[:8], "little")
    if not 2 <= length <= min(REMOTE_LIMIT, size - 8):
        raise CorruptError(
            f"{where} has no safetensors header",
            why=f"it says it is {length} bytes long, of a file of {size}",
        )
    while len(head) < length + 8:
        more = read(len(head), length + 8)
        if not more:
            raise CorruptError(f"{where} ends within its header")
        head += more
    return _parsed(head[8 : length + 8], where)


def _parsed(text: bytes, where: str) -> Header:
    try:
        found = json.loads(text)
        tensors = [
            Tensor(str(name), str(tensor["dtype"]), tuple(int(n) for n in tensor["shape"]))
            for name, tensor in found.items()
            if name != "__metadata__"
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CorruptError(f"{where} has no safetensors header") from None
    return Header(text, tensors)
