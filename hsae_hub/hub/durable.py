"""Files and folders that are there whole or not at all, whatever happens meanwhile: renamed to their names last."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from hsae_hub.artifact import flush
from hsae_hub.hub.places import OnBytes

_BLOCK = 1 << 20  # bytes that are read at once


def appear(target: Path, files: Mapping[str, str]) -> bool:
    """Makes a folder with its files, all at once; False if there is one of that name."""
    beside = target.parent / f".{uuid4().hex}.partial"
    try:
        beside.mkdir()
        for name, text in files.items():
            write_through(beside / name, text.encode())
        flush(beside)
        try:
            beside.rename(target)
        except OSError:
            if target.exists():
                return False
            raise
        flush(target.parent)
        return True
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_through(
    path: Path, content: Path | bytes, on_bytes: OnBytes | None = None
) -> tuple[str, int]:
    """Writes a content through to the disk; its sha256 and size."""
    digest = hashlib.sha256()
    size = 0
    source = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
    with source, path.open("xb") as out:
        while block := source.read(_BLOCK):
            out.write(block)
            digest.update(block)
            size += len(block)
            if on_bytes is not None:
                on_bytes(len(block))
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest(), size


def copy_through(source: Path, target: Path, on_bytes: OnBytes | None) -> None:
    """Copies a file, which appears under its name once it is whole."""
    beside = target.with_name(f".{uuid4().hex}.partial")
    try:
        write_through(beside, source, on_bytes)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
