"""One process at a time trains into a folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hsae_hub.errors import ConflictError

LOCK = ".lock"


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Holds the folder, which is made if it is not there; the system lets go of it however the process ends.

    Raises:
        ConflictError: somebody else holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ConflictError(
            f"{folder} is in use: {path.read_text(encoding='utf-8').strip() or 'another process'} "
            "is training into it",
            fix="wait until it ends, or give another --out",
        ) from None
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()
