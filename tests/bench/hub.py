"""Pushing and pulling 0.3 GB, beside a plain copy that computes a sha256 on the way.

    python tests/bench/hub.py [--rounds 5] [--quick]

The hub is a folder, or a server on loopback (tests/loopback, Python's own http.server) that huggingface_hub's client
speaks to over LFS. Every round has a new hub and new caches, so that all bytes go over; files are in the page cache.
Pulls of what is here already are in `startup.py`.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness import Findings, Scale, interleaved, run_part
from harness.commands import own_client
from harness.training import flat

sys.path.append(str(Path(__file__).parents[1]))  # the loopback hub, and what a run's folder holds
REPO = "org/flat"
CHUNK = 1 << 20


def copied(source: Path, target: Path) -> str:
    """Copies a file and computes its sha256 in one pass."""
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as write:
        while chunk := read.read(CHUNK):
            digest.update(chunk)
            write.write(chunk)
    return digest.hexdigest()


class Rounds:
    """New folders and a new server for each round."""

    def __init__(self, folder: Path, run: Path) -> None:
        from loopback import LoopbackHub

        self.folder, self.run, self.number = folder, run, 0
        self.make_server: Callable[[], LoopbackHub] = LoopbackHub
        self.server = LoopbackHub().__enter__()

    def copy(self) -> None:
        """The first way of a round."""
        self.number += 1
        for source in self.run.rglob("*.safetensors"):
            copied(source, self.folder / f"copy-{self.number}")
        (self.folder / f"copy-{self.number}").unlink()

    def push(self, kind: str) -> None:
        """To a hub that is new."""
        from hsae_hub.hub import Hub

        if kind == "server":
            self.server.__exit__(None, None, None)
            self.server = self.make_server().__enter__()
        Hub(self.address(kind), token=self.token()).push(self.run, REPO)

    def pull(self, kind: str) -> None:
        """Into a cache that is new."""
        from hsae_hub.hub import Hub

        cache = self.folder / f"cache-{kind}-{self.number}"
        Hub(self.address(kind), token=self.token(), cache_dir=cache).pull(REPO)

    def address(self, kind: str) -> str:
        """Of this round's hub."""
        return self.server.url if kind == "server" else str(self.folder / f"hub-{self.number}")

    def token(self) -> str:
        """That the server knows."""
        from loopback import OWNER

        return OWNER


def measure(found: Findings, scale: Scale) -> None:
    """Copy, push and pull in turn."""
    from hub_world import make_run

    d, n, k, _ = scale.sizes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = folder / "run"
        make_run(run, flat("topk", d, n, k), baseline=False, evaluated=False)
        size = sum(path.stat().st_size for path in run.rglob("*.safetensors"))
        found.sizes = {"bytes": size}
        rounds = Rounds(folder, run)
        ways = {"copy with sha256": rounds.copy}
        for kind in ("folder", "server"):
            ways[f"push to a {kind}"] = partial(rounds.push, kind)
            ways[f"pull from a {kind}"] = partial(rounds.pull, kind)
        found.add_times(interleaved(ways, scale.rounds))
        for way in ways:
            if way != "copy with sha256":
                found.ratio(way, "copy with sha256")


if __name__ == "__main__":
    with own_client():
        run_part(Findings(part="hub", title="Push and pull"), measure)
