"""In which keys two recipes, or the same part of two, differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def differing(before: Any, now: Any, *, where: str, here: str) -> tuple[str, ...]:
    """A line for each key in which plain data differ: `sae.k: 32 in the run, 64 now`."""
    old, new = dict(_flat(before)), dict(_flat(now))
    return tuple(
        f"{key}: {old.get(key, 'not set')} {where}, {new.get(key, 'not set')} {here}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    )


def keys_of(differences: tuple[str, ...]) -> str:
    """The keys of such lines: `sae.k, train.lr`."""
    return ", ".join(line.partition(":")[0] for line in differences)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, json.dumps(value)
