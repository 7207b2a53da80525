"""What a run tells while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Phase = Literal["sample", "fill", "count", "train", "stats"]


class Event(NamedTuple):
    """How far a phase of a run is, or something worth saying about it."""

    phase: Phase
    """`sample`: text that the model writes, in tokens; `fill`: activations read; `count`: tokens counted in text;
    `train`: steps; `stats`: tokens."""
    done: int
    total: int
    metrics: dict[str, Any] | None = None
    """The line that was just written to metrics.jsonl, at the steps that have one."""
    message: str = ""
    """One line for people: resumed, checkpoint saved, damaged checkpoint skipped."""


OnEvent = Callable[[Event], None]
