"""Ways to do a thing that take turns, A B A B, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Took(NamedTuple):
    """What one turn took, in seconds."""

    wall: float
    cpu: float
    """Of all threads of the process that did it: other work on the machine matters little to it."""


Way = Callable[[], Any]
"""One turn. It is timed from outside, unless it returns a `Took` of its own: a child process, or a part of the work."""


def timed(work: Way) -> Took:
    """One turn of `work`."""
    wall, cpu = time.perf_counter(), time.process_time()
    own = work()
    if isinstance(own, Took):
        return own
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


def repeated(work: Way, times: int) -> Way:
    """A way that does `work` so many times a turn and tells what one of them took: for work of less than 10 ms."""

    def several() -> Took:
        def all_of_it() -> None:
            for _ in range(times):
                work()

        took = timed(all_of_it)
        return Took(took.wall / times, took.cpu / times)

    return several


def interleaved(ways: Mapping[str, Way], rounds: int, *, warmup: int = 1) -> dict[str, list[Took]]:
    """What every way took in each round; in a round each has one turn. `warmup` rounds before them are not kept."""
    found: dict[str, list[Took]] = {name: [] for name in ways}
    for turn in range(-warmup, rounds):
        for name, work in ways.items():
            took = timed(work)
            if turn >= 0:
                found[name].append(took)
    return found
