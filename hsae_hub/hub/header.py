"""The header of a safetensors file: a length of 8 bytes, then JSON."""

from __future__ import annotations

import json
from typing import BinaryIO, NamedTuple

from hsae_hub.errors import CorruptError
from hsae_hub.hub.places import Tensor

LIMIT = 1 << 24
"""Largest header that is read, in bytes."""


class Header(NamedTuple):
    """A header as it is written, and what it says."""

    text: bytes
    tensors: list[Tensor]


def read_header(file: BinaryIO, where: str) -> Header:
    """Reads the header of an open file; `where` names it in errors.

    Raises:
        CorruptError: it is none.
    """
    length = int.from_bytes(file.read(8), "little")
    text = file.read(length) if 2 <= length <= LIMIT else b""
    try:
        found = json.loads(text)
        tensors = [
            Tensor(str(name), str(tensor["dtype"]), tuple(int(n) for n in tensor["shape"]))
            for name, tensor in found.items()
            if name != "__metadata__"
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CorruptError(f"{where} has no safetensors header") from None
    return Header(text, tensors)
