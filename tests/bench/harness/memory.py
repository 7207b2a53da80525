"""What a process has in memory, as Linux tells it."""

from __future__ import annotations

import ctypes
import gc
import os
import re
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def resident(name: str = "VmRSS") -> int:
    """Bytes: all that is in memory (VmRSS), the most that ever was (VmHWM), or what no file backs (RssAnon)."""
    found = re.search(rf"^{name}:\s*(\d+) kB", STATUS.read_text(), re.M)
    return 1024 * int(found[1]) if found else 0


def settle() -> None:
    """Gives back to the system what was freed, and is kept for the next one who asks."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def most_memory(work: Callable[[], object]) -> int:
    """Bytes that `work` takes at most beside what was there before it."""
    settle()
    CLEAR.write_text("5")  # the most ever starts anew
    before = resident()
    work()
    return resident("VmHWM") - before


def forget(*paths: Path) -> None:
    """Asks the system to drop the pages of files, which are read from the disk again then."""
    gc.collect()  # what is mapped is not dropped
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)  # nor is what is not written yet
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
