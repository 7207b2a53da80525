"""Commands of a shell, timed from outside."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.timing import Took

HSAE = Path(sys.executable).with_name("hsae")


def command(*words: str, environment: dict[str, str] | None = None) -> Took:
    """What it takes until it has ended; its own environment is added to this process's.

    An installed package has its bytecode beside it, so here it may be written.
    """
    own = {**os.environ, **(environment or {})}
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    before, started = _of_children(), time.perf_counter()
    done = subprocess.run(words, env=own, capture_output=True, text=True)
    wall = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return Took(wall, _of_children() - before)


def hsae(*words: str, environment: dict[str, str] | None = None) -> Took:
    """The same of our own command."""
    return command(str(HSAE), *words, environment=environment)


@contextmanager
def own_client() -> Iterator[None]:
    """Leaves Hugging Face's client nothing of the user's; before it is imported."""
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": home}
        for proxy in [key for key in os.environ if key.lower().endswith("_proxy")]:
            del os.environ[proxy]
        yield


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
