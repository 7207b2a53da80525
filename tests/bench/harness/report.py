"""One run of the benchmarks as data: what was found, where, when and with what. Its JSON is `hsae.bench/1`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from harness.findings import Findings

SCHEMA = "hsae.bench/1"


class Machine(BaseModel, extra="forbid"):
    """Where it ran."""

    processor: str
    threads: int
    """Of torch, in the parts."""
    load_at_start: list[float]
    load_at_end: list[float]
    """Running processes, on average over 1, 5 and 15 minutes."""


class Report(BaseModel, extra="forbid", populate_by_name=True):
    """What `run.py` writes."""

    format: Literal["hsae.bench/1"] = Field("hsae.bench/1", alias="schema")
    date: str
    """When it began, in UTC."""
    command: str
    quick: bool
    """Small sizes, for which bars do not hold."""
    rounds: int
    machine: Machine
    versions: dict[str, str]
    peers: dict[str, str]
    """Versions of the peers that took their turns; empty without their environment."""
    parts: list[Findings]

    def head(self) -> list[str]:
        """What stands above the table."""
        packages = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        peers = ", ".join(f"{name} {version}" for name, version in self.peers.items())
        start, end = (
            " ".join(f"{each:.2f}" for each in load)
            for load in (self.machine.load_at_start, self.machine.load_at_end)
        )
        return [
            f"{self.date}, {self.command}",
            f"{self.machine.processor}; threads {self.machine.threads}; load {start} at start, {end} at end",
            packages,
            f"peers: {peers or 'none here; make bench-peers installs them'}",
            f"medians of {self.rounds} rounds, ratios within a round"
            + ("; small sizes, so that no bar is judged" if self.quick else ""),
        ]
