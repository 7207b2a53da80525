"""Files that are never seen half written: each is made beside its name first, then renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hsae_hub.artifact.config import FileInfo
from hsae_hub.errors import UsageError

_UMASK = os.umask(0)
os.umask(_UMASK)

CONFIG = "config.json"
WEIGHTS = "sae.safetensors"
STATS = "stats.safetensors"
REPORTS = "eval"
"""Folder of what was measured."""
CORE_REPORT = f"{REPORTS}/core.json"
"""Reconstruction and loss, which every card has."""


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, write: Callable[[Path], None] | str) -> None:
    """Lets `write` make a file beside `path` (or writes the text), flushes it to disk, then renames it to `path`.

    Raises:
        OSError: the system refuses; it names `path`, not the file beside it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        if isinstance(write, str):
            beside.write_text(write, encoding="utf-8")
        else:
            write(beside)
        beside.chmod(0o666 & ~_UMASK)  # safetensors makes files that only their owner can read
        flush(beside)
        beside.replace(path)
    except OSError as error:
        raise _about(path, error) from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def folder_atomic(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a folder beside `out` to fill; left without an error it becomes `out`, else it goes.

    With `overwrite` its files take the place of those of the same name in an `out` that is there, other files stay.

    Raises:
        UsageError: `out` is a file, or a folder that is not empty and not to be overwritten.
        OSError: the system refuses to make it.
    """
    out = out.absolute()
    taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if taken and not (overwrite and out.is_dir()):
        raise UsageError(
            f"{out} is not {'empty' if out.is_dir() else 'a folder'}",
            fix="give another folder" + (", or --overwrite" if out.is_dir() else ""),
        )
    beside = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
    except OSError as error:
        raise _about(out, error) from None
    try:
        yield beside
        files = sorted(path for path in beside.rglob("*") if path.is_file())
        for path in files:
            flush(path)
        if not taken:
            beside.rename(out)
        else:
            for path in sorted(files, key=lambda path: path.suffix == ".json"):  # configs last
                place = out / path.relative_to(beside)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
        flush(out)
        flush(out.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def flush(path: Path) -> None:
    """Makes a file's bytes, or the names in a folder, last over a power cut, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _about(path: Path, error: OSError) -> OSError:
    """The same refusal of the system, of a file that the user knows."""
    return error if error.errno is None else OSError(error.errno, error.strerror, str(path))


def file_info(path: Path) -> FileInfo:
    """Hash and size of a file."""
    return FileInfo(sha256=sha256_file(path), size=path.stat().st_size)
