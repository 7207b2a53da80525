"""Every SAE's latents on the way of what is traced, so that a trace can read and write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from hsae_hub.architectures import Acts
from hsae_hub.attach.losses import Site
from hsae_hub.attach.running import Placed
from hsae_hub.attach.splicing import Splice


def pointed(
    placed: Sequence[Placed], sites: Mapping[str, Site], points: Mapping[str, Any]
) -> list[Placed]:
    """The same with every SAE's acts passing its point: in its splice, else in one that changes nothing."""
    found = list(placed)
    for name, site in sites.items():
        if site.hookpoint.side == "weight":
            continue
        splice = Splice(site.sae, error_term=True)
        at = len(found)
        for i, (hookpoint, change) in enumerate(found):
            if isinstance(change, Splice) and (hookpoint, change.sae) == site[::-1]:
                at, splice = i, change
        through = replace(splice, point=partial(_through, points[name]))
        found[at : at + 1] = [Placed(site.hookpoint, through)]
    return found


def _through(point: Any, acts: Acts) -> Acts:
    passed: Acts = point(acts, hook=True)
    return passed
