"""How much of an activation is explained, as one bar."""

from __future__ import annotations

from collections.abc import Sequence

from hsae_hub.render.escaping import escaped
from hsae_hub.render.nodes import Part
from hsae_hub.render.text import drawn_parts

_KINDS = {"parents": "parent", "explained": "parent", "children": "child"}


def render_budget(parts: Sequence[Part], *, mark: Part | None = None) -> str:
    """Parts of a whole side by side, their shares in words, and a mark such as a flat SAE's share."""
    drawn = "".join(
        f'<i class="hs-{_KINDS.get(name, "rest")}" style="width:{width:.2f}%"></i>'
        for name, width in drawn_parts(parts)
    )
    keys = "".join(
        f'<span><b class="hs-{_KINDS.get(part.name, "rest")}"></b>{escaped(part.name)} {_share(part, parts)}</span>'
        for part in parts
    )
    tick = noted = ""
    if mark is not None:
        whole = max(1.0, sum(max(part.share, 0) for part in parts))
        tick = f'<u style="left:{100 * min(max(mark.share, 0), 1) / whole:.2f}%"></u>'
        noted = f'<span class="hs-mark">▲ {escaped(mark.name)}: {mark.share:.0%}</span>'
    told = ", ".join(f"{part.name} {_share(part, parts)}" for part in parts)
    return (
        f'<div class="hs-budget"><div class="hs-whole" role="img" aria-label="{escaped(told)}">{drawn}{tick}</div>'
        f'<div class="hs-keys">{keys}{noted}</div></div>'
    )


def _share(part: Part, parts: Sequence[Part]) -> str:
    """The first part as it is, a gain in the middle with its sign."""
    return f"{part.share:+.0%}" if part.name == "children" else f"{part.share:.0%}"
