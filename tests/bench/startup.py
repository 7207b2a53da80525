"""How long the command and the import take to start, from outside, with Python's own start beside; and pulls of what is
here already, which are little more than a start: of a few kB, for files that were hashed before are not read.

python tests/bench/startup.py [--rounds 5] [--quick]
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from harness import Findings, Scale, interleaved, run_part
from harness.commands import command, hsae, own_client

sys.path.append(str(Path(__file__).parents[1]))  # the loopback hub, and what a run's folder holds
HELP = "hsae --help"
PULLS = ("hsae pull, warm, folder", "hsae pull, warm, server")


def measure(found: Findings, scale: Scale) -> None:
    """Twice as many rounds as other parts have: a start is short."""
    from hub_world import REPO, make_run
    from loopback import OWNER, LoopbackHub

    from hsae_hub.hub import Hub

    with tempfile.TemporaryDirectory() as name, LoopbackHub() as server:
        folder = Path(name)
        make_run(folder / "run", baseline=False, evaluated=False)
        for hub in (Hub(folder / "hub"), Hub(server.url, token=OWNER)):
            hub.push(folder / "run", REPO)
        places = (
            {"HSAE_HUB": str(folder / "hub"), "HSAE_HOME": str(folder / "home")},
            {"HF_ENDPOINT": server.url, "HF_TOKEN": OWNER},
        )
        ways = {
            "python -c pass": partial(command, sys.executable, "-c", "pass"),
            "import hsae_hub": partial(command, sys.executable, "-c", "import hsae_hub"),
            "hsae --version": partial(hsae, "--version"),
            HELP: partial(hsae, "--help"),
        }
        for way, environment in zip(PULLS, places, strict=True):
            ways[way] = partial(hsae, "pull", REPO, environment=environment)
        times = interleaved(ways, 2 * scale.rounds)
    found.add_times({HELP: times.pop(HELP)}, bar=0.4)
    found.add_times({way: times.pop(way) for way in PULLS}, bar=0.5)
    found.add_times(times)
    for way in ways:
        if way != "python -c pass":
            found.ratio(way, "python -c pass")


if __name__ == "__main__":
    with own_client():
        run_part(Findings(part="startup", title="Start-up of the command"), measure)
