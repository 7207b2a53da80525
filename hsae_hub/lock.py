"""One process at a time works in a folder."""

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
def only_one_in(folder: Path, doing: str, *, where: Path | None = None) -> Iterator[None]:
    """Holds the folder, which is made if it is not there; the system lets go of it however the process ends.

    `doing` are the words for it, such as `training into`. The lock lies in the folder itself, or in `where`.

    Raises:
        ConflictError: somebody else holds it.
    """
    place = where or folder
    place.mkdir(parents=True, exist_ok=True)
    path = place / LOCK
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ConflictError(
            f"{folder} is in use: {path.read_text(encoding='utf-8').strip() or 'another process'} "
            f"is {doing} it",
            fix="wait until it ends, or give another --out",
        ) from None
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()
