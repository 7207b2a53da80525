"""A part of the benchmarks is a script that `run.py` starts in a process of its own, or that is run by itself."""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from harness.findings import Findings


class Scale(NamedTuple):
    """How much is measured."""

    rounds: int
    quick: bool
    """At small sizes, to see that everything runs: the bars do not hold for them."""

    def pick(self, full: int, quick: int) -> int:
        """A size, by whether all of it is asked for."""
        return quick if self.quick else full

    def sizes(self) -> tuple[int, int, int, int]:
        """Width, latents or parents, those kept a token, and tokens of a training step, for which the bars are."""
        return (64, 256, 8, 64) if self.quick else (2304, 16_384, 32, 1024)


def run_part(found: Findings, measure: Callable[[Findings, Scale], None]) -> None:
    """Runs a part by its command line: prints its table, or leaves what it found as JSON for `run.py`.

    What was found before an error is kept.
    """
    parser = argparse.ArgumentParser(description=found.title)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each way has")
    parser.add_argument("--quick", action="store_true", help="small sizes, without bars")
    parser.add_argument("--json", type=Path, help="write what was found there, print nothing")
    asked = parser.parse_args()
    import torch  # here, for run.py needs none

    torch.set_num_threads(1)
    started = time.perf_counter()
    try:
        measure(found, Scale(asked.rounds, asked.quick))
    except Exception as error:
        traceback.print_exc()
        found.error = f"{type(error).__name__}: {error}"
    found.seconds = time.perf_counter() - started
    if asked.json:
        asked.json.write_text(found.model_dump_json())
    else:
        from harness.table import lines

        print("\n".join(lines([found], judged=not asked.quick)))
    raise SystemExit(1 if found.error else 0)
