"""A page for the terminal."""

from __future__ import annotations

import textwrap

from hsae_hub.render.page import Context, Contexts, Histogram, Page, Pairs, Section, Tile
from hsae_hub.render.text import display_width, fit, pad, visible

_LEVELS = " ▁▂▃▄▅▆▇█"


def page_text(page: Page, *, width: int = 80) -> str:
    """The page in lines of at most `width` columns (40 at the least), without trailing blanks."""
    width = max(width, 40)
    head = " › ".join(f"{label} {name}" if label else name for label, name in page.crumbs)
    out = [fit(visible(head), width), fit(visible(page.subtitle), width)]
    out += textwrap.wrap(visible(" · ".join(page.chips)), width)
    for section in page.sections:
        lines = _lines(section, width)
        if lines:
            out += ["", fit(visible(section.title), width), *lines]
    if page.footnote:
        out += ["", *textwrap.wrap(visible(page.footnote), width)]
    return "\n".join(line.rstrip() for line in out)


def _lines(section: Section, width: int) -> list[str]:
    if isinstance(section, Histogram):
        return _histogram(section, width)
    if isinstance(section, Pairs):
        names = max([display_width(visible(repr_of(name))) for name, _ in section.pairs], default=0)
        names = min(names, width - 14)
        return [
            "  " + pad(fit(visible(repr_of(name)), names), names) + "  " + visible(value).rjust(8)
            for name, value in section.pairs
        ]
    if isinstance(section, Contexts):
        return [_context(context, width, "  ") for context in section.contexts]
    return [line for tile in section.tiles for line in _tile(tile, width)]


def repr_of(name: str) -> str:
    """A name whose blanks at its ends are seen."""
    return repr(name) if name != name.strip() or not name else name


def _histogram(section: Histogram, width: int) -> list[str]:
    if not section.heights:
        return []
    most = max(section.heights) or 1
    bars = "".join(
        _LEVELS[max(round(8 * h / most), 1) if h > 0 else 0] for h in section.heights[: width - 2]
    )
    gap = max(len(bars) - len(section.low) - len(section.high), 1)
    scale = section.low + " " * gap + section.high
    note = textwrap.wrap(visible(section.note), width - 2)
    return [f"  {line}" for line in (bars, fit(visible(scale), width - 2), *note)]


def _tile(tile: Tile, width: int) -> list[str]:
    bar = pad("█" * round(12 * min(max(tile.weight, 0), 1)) or "▏", 12)
    head = f"  {'▸' if tile.chosen else ' '} {bar} {tile.id:<8} {tile.note:>11}  {tile.label}"
    lines = [fit(visible(head), width)]
    return lines + [_context(context, width, "      ") for context in tile.contexts]


def _context(context: Context, width: int, indent: str) -> str:
    lead = f"{indent}{context.value:>8}  " if context.value else indent
    chosen = next((i for i, mark in enumerate(context.marks) if mark.chosen), 0)
    before = visible("".join(mark.text for mark in context.marks[:chosen]))
    here = visible("".join(mark.text for mark in context.marks[chosen : chosen + 1]))
    after = visible("".join(mark.text for mark in context.marks[chosen + 1 :]))
    token = here.strip() or here
    blank = " " if here.startswith(" ") and here.strip() else ""
    room = width - display_width(lead) - display_width(token) - 3
    left = _last(before, max(room * 3 // 5, 0)) + blank
    return lead + fit(f"{left}«{token}»{after}", width - display_width(lead))


def _last(text: str, width: int) -> str:
    while display_width(text) > width:
        text = text[1:]
    return text
