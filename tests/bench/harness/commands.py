"""Commands of a shell, timed from outside."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from harness.timing import Took

HSAE = Path(sys.executable).with_name("hsae")


def command(*words: str, environment: dict[str, str] | None = None) -> Took:
    """What it takes until it has ended; its own environment is added to this process's."""
    before, started = _of_children(), time.perf_counter()
    done = subprocess.run(
        words, env={**os.environ, **(environment or {})}, capture_output=True, text=True
    )
    wall = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return Took(wall, _of_children() - before)


def hsae(*words: str, environment: dict[str, str] | None = None) -> Took:
    """The same of our own command."""
    return command(str(HSAE), *words, environment=environment)


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
