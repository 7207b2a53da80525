"""Waiting for another process that fetches the same content, which huggingface_hub does without a limit or a word."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from filelock import FileLock, Timeout

from hsae_hub.errors import ConflictError

_log = logging.getLogger(__name__)

LOCK_LIMIT = 120.0
"""Seconds without a byte from the other process, after which it is not waited for any longer."""
_TELL = 3.0  # seconds before a word is said about it
_POLL = 0.1  # seconds


def wait_for_lock(lock: Path, parts: Path, doing: str) -> None:
    """Returns when nobody holds a lock of huggingface_hub's; `parts` is a pattern of what its holder writes to.

    Raises:
        ConflictError: its holder lives, but has written nothing for `LOCK_LIMIT`.
    """
    began = since = time.monotonic()
    before: list[tuple[str, int]] = []
    told = False
    while lock.exists():
        try:
            with FileLock(lock, blocking=False):
                return
        except Timeout:
            pass
        except (OSError, NotImplementedError):  # read-only, or no locks there
            return
        now = time.monotonic()
        if (written := _sizes(parts)) != before:
            before, since = written, now
        if not told and now - began > _TELL:
            told = True
            _log.warning("%s: waiting for another process that does it", doing)
        if now - since > LOCK_LIMIT:
            raise ConflictError(
                f"{doing}: another process holds the lock for it, and has written nothing for {LOCK_LIMIT:.0f} s",
                why=f"its lock is {lock}",
                fix="stop that process, then do this again",
            )
        time.sleep(_POLL)


def _sizes(parts: Path) -> list[tuple[str, int]]:
    found = []
    for path in parts.parent.glob(parts.name):
        try:
            found.append((path.name, path.stat().st_size))
        except FileNotFoundError:
            continue
    return sorted(found)
