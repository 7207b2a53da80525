"""Memory of large tensors, used again while training runs."""

import resource
import sys

import pytest
import torch

from hsae_hub.training.memory import kept_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's")


def faults(times: int) -> int:
    """Pages that the system had to give for tensors of 64 MB, one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_large_tensors_take_the_pages_of_those_before_them() -> None:
    fresh = faults(4)
    if fresh < 64:
        pytest.skip("pages are huge here")
    with kept_memory():
        faults(1)
        assert faults(4) < fresh / 2
    assert faults(4) > fresh / 2


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "65536")
    fresh = faults(4)
    with kept_memory():
        assert faults(4) > fresh / 2
