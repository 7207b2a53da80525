"""What torchrun tells the processes that it starts. No torch here: the command asks before it loads any."""

from __future__ import annotations

import os
from typing import NamedTuple


class Place(NamedTuple):
    """One process among those that train together."""

    rank: int
    """Its number among all of them; 0 leads: it alone writes files and speaks."""
    local_rank: int
    """Its number on its machine, and that of its GPU."""
    world: int
    """Processes on all machines."""
    local_world: int
    """Processes on its machine."""


_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


def place() -> Place:
    """Which process this is; the only one where torchrun did not start it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Place(0, 0, 1, 1)
    return Place(*(int(os.environ[name]) for name in _NAMES))
