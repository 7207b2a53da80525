"""How long the command and the import take to start, from outside, with Python's own start beside.

python tests/bench/startup.py [--rounds 5] [--quick]
"""

from __future__ import annotations

import sys
from functools import partial

from harness import Findings, Scale, interleaved, run_part
from harness.commands import command, hsae


def measure(found: Findings, scale: Scale) -> None:
    """A round more than other parts have, twice: a start is short."""
    ways = {
        "python -c pass": partial(command, sys.executable, "-c", "pass"),
        "import hsae_hub": partial(command, sys.executable, "-c", "import hsae_hub"),
        "hsae --version": partial(hsae, "--version"),
        "hsae --help": partial(hsae, "--help"),
    }
    found.add_times(interleaved(ways, 2 * scale.rounds))
    found.hold("hsae --help", 0.4)
    for name in ("import hsae_hub", "hsae --help"):
        found.ratio(name, "python -c pass")


if __name__ == "__main__":
    run_part(Findings(part="startup", title="Start-up of the command"), measure)
