"""How everything that is wrong with a YAML file is told at once, each with its place."""

from __future__ import annotations

from hsae_hub.errors import UsageError
from hsae_hub.problems import Problem
from hsae_hub.recipes.text import Loc, Place


def place_of(loc: Loc, places: dict[Loc, Place]) -> Place:
    """Where a key stands, or the nearest one above it that stands somewhere."""
    while loc and loc not in places:
        loc = loc[:-1]
    return places.get(loc, "")


def refusal(what: str, found: list[tuple[Place, Problem]]) -> UsageError:
    """The error that tells every problem of `what`, in the order of the file."""
    found = sorted(found, key=lambda pair: _order(pair[0]))
    lines = dict.fromkeys(f"{place}: {problem}".removeprefix(": ") for place, problem in found)
    count = f"{len(lines)} problem" + ("s" if len(lines) > 1 else "")
    return UsageError(f"the {what} has {count}; nothing was run", problems=tuple(lines))


def _order(place: Place) -> tuple[bool, str, int]:
    source, _, line = place.rpartition(":")
    return place.startswith("--set"), source, int(line) if line.isdecimal() else 0
