"""Xorbs and shards, the binary formats of the Xet protocol, read as far as a server has to.

From the published specification, huggingface.co/docs/xet: "xorb" (chunks behind headers of 8 bytes), "shard" (files
as runs of chunks), "api" (how a hash is written), and the LZ4 frame and block formats (github.com/lz4/lz4, doc/).
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

CHUNK = 1 << 16
_ENTRY = 48  # bytes of every header and entry of a shard
_VERIFIED, _WITH_SHA256 = 1 << 31, 1 << 30
_LZ4_MAGIC = b"\x04\x22\x4d\x18"


class Chunk(NamedTuple):
    """Where a chunk lies in its xorb, and what it holds."""

    start: int
    end: int
    content: bytes


class Run(NamedTuple):
    """Chunks `start` to `end` (left out) of a xorb."""

    xorb: str
    start: int
    end: int


class SharedFile(NamedTuple):
    """A file of a shard."""

    hash: str
    runs: list[Run]
    sha256: str


def hash_text(raw: bytes) -> str:
    """A hash as it is written in addresses: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def chunks_of(xorb: bytes) -> list[Chunk]:
    """The chunks of a xorb, whether a footer follows them or not."""
    found, at = [], 0
    while at < len(xorb) and xorb[at : at + 7] != b"XETBLOB":
        packed = int.from_bytes(xorb[at + 1 : at + 4], "little")
        scheme = xorb[at + 4]
        length = int.from_bytes(xorb[at + 5 : at + 8], "little")
        data = xorb[at + 8 : at + 8 + packed]
        content = data if scheme == 0 else unpack_lz4(data)
        if scheme == 2:
            content = _ungrouped(content)
        if xorb[at] != 0 or scheme > 2 or len(content) != length:
            raise ValueError(f"no chunk at {at}: version {xorb[at]}, scheme {scheme}")
        found.append(Chunk(at, at + 8 + packed, content))
        at += 8 + packed
    return found


def make_xorb(content: bytes) -> bytes:
    """A xorb of uncompressed chunks."""
    parts = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
    lengths = [len(part).to_bytes(3, "little") for part in parts]
    return b"".join(b"\0" + n + b"\0" + n + part for n, part in zip(lengths, parts, strict=True))


def made_up_hash(what: str, content: bytes) -> str:
    """A hash for what no client has named: clients do not compute those of what they download."""
    return hashlib.sha256(what.encode() + content).hexdigest()


def files_of(shard: bytes) -> list[SharedFile]:
    """The files that a shard describes."""
    found, at = [], _ENTRY
    while shard[at : at + 32] != b"\xff" * 32:
        name = hash_text(shard[at : at + 32])
        flags, count = struct.unpack_from("<II", shard, at + 32)
        at += _ENTRY
        runs = []
        for _ in range(count):
            start, end = struct.unpack_from("<II", shard, at + 40)
            runs.append(Run(hash_text(shard[at : at + 32]), start, end))
            at += _ENTRY
        if flags & _VERIFIED:
            at += count * _ENTRY
        sha256 = ""
        if flags & _WITH_SHA256:
            sha256 = hash_text(shard[at : at + 32])
            at += _ENTRY
        found.append(SharedFile(name, runs, sha256))
    return found


def unpack_lz4(frame: bytes) -> bytes:
    """The content of an LZ4 frame; its checksums are not looked at."""
    if frame[:4] != _LZ4_MAGIC:
        raise ValueError("no LZ4 frame")
    flags = frame[4]
    at = 7 + 8 * bool(flags & 8) + 4 * bool(flags & 1)
    out = bytearray()
    while size := int.from_bytes(frame[at : at + 4], "little"):
        length = size & 0x7FFFFFFF
        block = frame[at + 4 : at + 4 + length]
        if size >> 31:
            out += block
        else:
            _unpack_block(block, out)
        at += 4 + length + 4 * bool(flags & 16)
    return bytes(out)


def _unpack_block(block: bytes, out: bytearray) -> None:
    at = 0
    while at < len(block):
        token = block[at]
        literals, at = _length(block, at + 1, token >> 4)
        out += block[at : at + literals]
        at += literals
        if at >= len(block):
            return
        offset = int.from_bytes(block[at : at + 2], "little")
        count, at = _length(block, at + 2, token & 15)
        count += 4
        start = len(out) - offset
        if offset >= count:
            out += out[start : start + count]
        else:  # a match may run into what it writes
            piece = bytes(out[start:])
            out += (piece * (count // offset + 1))[:count]


def _length(block: bytes, at: int, first: int) -> tuple[int, int]:
    if first < 15:
        return first, at
    total = first
    while True:
        total += block[at]
        at += 1
        if block[at - 1] != 255:
            return total, at


def _ungrouped(data: bytes) -> bytes:
    """Undoes the grouping of every fourth byte."""
    out, at = bytearray(len(data)), 0
    for group in range(4):
        size = (len(data) - group + 3) // 4
        out[group::4] = data[at : at + size]
        at += size
    return bytes(out)
