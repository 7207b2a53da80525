"""Memory that a process keeps from one step to the next."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# of glibc's malloc.h; see mallopt(3) for their values at the start
_TRIM_THRESHOLD, _TRIM_AT_FIRST = -1, 128 * 1024
_MMAP_MAX, _MMAPS_AT_FIRST = -4, 65536
_NEVER, _NONE = -1, 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Inside, memory of large tensors is not given back to the system, but used again for the next ones.

    Fresh pages of gradients and products can cost a step on a CPU more than its arithmetic. It is of the whole process,
    and does something where the C library is glibc and no `MALLOC_MMAP_MAX_` is set.
    """
    library = None if "MALLOC_MMAP_MAX_" in os.environ else _glibc()
    if library is None:
        yield
        return
    library.mallopt(_MMAP_MAX, _NONE)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_MMAP_MAX, _MMAPS_AT_FIRST)
        library.mallopt(_TRIM_THRESHOLD, _TRIM_AT_FIRST)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libc.so.6")
        library.gnu_get_libc_version, library.mallopt, library.malloc_trim  # noqa: B018
    except (OSError, AttributeError):
        return None
    return library
