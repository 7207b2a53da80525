"""How long the command and the import take to start, from outside, with Python's own start beside.

python tests/bench/startup.py [--rounds 5] [--quick]
"""

from __future__ import annotations

import sys
from functools import partial

from harness import Findings, Scale, interleaved, run_part
from harness.commands import command, hsae

HELP = "hsae --help"


def measure(found: Findings, scale: Scale) -> None:
    """Twice as many rounds as other parts have: a start is short."""
    ways = {
        "python -c pass": partial(command, sys.executable, "-c", "pass"),
        "import hsae_hub": partial(command, sys.executable, "-c", "import hsae_hub"),
        "hsae --version": partial(hsae, "--version"),
    }
    times = interleaved({**ways, HELP: partial(hsae, "--help")}, 2 * scale.rounds)
    found.add_times({HELP: times.pop(HELP)}, bar=0.4)
    found.add_times(times)
    for name in ("import hsae_hub", "hsae --version", HELP):
        found.ratio(name, "python -c pass")


if __name__ == "__main__":
    run_part(Findings(part="startup", title="Start-up of the command"), measure)
