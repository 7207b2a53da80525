"""Times and memory on a device: by its own clock and its own allocator where it is a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from harness.memory import most_memory
from harness.timing import Took, Way, repeated


def on_device(work: Callable[[], object], device: torch.device, times: int = 1) -> Way:
    """A way that does `work` so many times a turn and tells what one of them took; on a GPU, all that was started."""
    if device.type != "cuda":
        return repeated(work, times)

    def several() -> Took:
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        cpu = time.process_time()
        before.record()
        for _ in range(times):
            work()
        after.record()
        after.synchronize()
        cpu = time.process_time() - cpu
        return Took(before.elapsed_time(after) / 1000 / times, cpu / times)

    return several


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """Bytes that `work` takes at most beside what was there before it."""
    if device.type != "cuda":
        return most_memory(work)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def name(device: torch.device) -> str:
    """What it is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
