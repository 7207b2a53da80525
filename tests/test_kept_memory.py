"""Memory of large tensors, used again while training runs."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's")

SCRIPT = """
import resource, torch
from hsae_hub.training.memory import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
with kept_memory():
    faults()
    print(faults())
"""


def pages(**environment: str) -> tuple[int, int]:
    """What the system gave for eight tensors of 64 MB, one after the other: as it is, and with memory kept."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    fresh, kept = map(int, done.stdout.split())
    if fresh < 64:
        pytest.skip("pages are huge here")
    return fresh, kept


def test_large_tensors_take_the_pages_of_those_before_them() -> None:
    fresh, kept = pages()
    assert kept < fresh / 2


def test_what_the_environment_says_stays() -> None:
    fresh, kept = pages(MALLOC_MMAP_MAX_="65536")
    assert kept > fresh / 2
