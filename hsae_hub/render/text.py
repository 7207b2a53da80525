"""A tree for the terminal."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from hsae_hub.render.nodes import Block, Part, Row, Tree

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SIGNS = {"\n": "↵", "\r": "↵", "\t": "⇥"}
_GAP = 2


def render_text(tree: Tree, *, width: int = 80) -> str:
    """The tree in lines of at most `width` columns (40 at the least), without trailing blanks."""
    width = max(width, 40)
    rows = [line for block in tree.blocks for line in _lines(block.rows)]
    cells = [
        max([display_width(head), *(display_width(row.cells[i]) for _, row in rows)])
        for i, head in enumerate(tree.columns)
    ]
    taken = sum(cells) + _GAP * len(cells)
    names = max([display_width(branch + _name(row)) for branch, row in rows], default=0)
    bar = max(4, min(24, width - taken - names - _GAP))
    name = min(names, max(8, width - taken - bar - _GAP))
    out = [fit(visible(tree.title), width), fit(visible(tree.subtitle), width)]
    if rows:
        heads = _columns(tree.columns, cells)
        out.append(" " * (name + _GAP + bar) + heads)
    for block in tree.blocks:
        out.append(_headline(block, width))
        for branch, row in _lines(block.rows):
            label = pad(fit(branch + _name(row), name), name)
            drawn = pad(_bar(row.bar, bar, faint=row.faint), bar)
            out.append(label + " " * _GAP + drawn + _columns(row.cells, cells))
        if block.note:
            out.append("   " + fit(visible(block.note), width - 3))
    if tree.footnote:
        out += ["", *textwrap.wrap(visible(tree.footnote), width)]
    return "\n".join(line.rstrip() for line in out if line.strip() or not line)


def visible(text: str) -> str:
    """Text whose line breaks, tabs and control characters are seen rather than obeyed."""
    return "".join(_SIGNS.get(c, c if c.isprintable() else f"\\x{ord(c):02x}") for c in text)


def harmless(text: str) -> str:
    """Text that a terminal shows and does not obey, and that every encoding of Unicode holds.

    Line breaks and tabs stay; other control characters and lone surrogates are written as in JSON, such as `\\u001b`.
    """
    return "".join(
        f"\\u{ord(c):04x}" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c
        for c in text.replace("\r\n", "\n")
    )


def display_width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _lines(rows: Sequence[Row], before: str = "   ") -> Iterator[tuple[str, Row]]:
    """Every row with the branches in front of it."""
    for i, row in enumerate(rows):
        last = i == len(rows) - 1
        yield before + ("└─ " if last else "├─ "), row
        yield from _lines(row.below, before + ("   " if last else "│  "))


def _name(row: Row) -> str:
    return visible(f"{row.label} {row.id}" if row.label else row.id)


def _headline(block: Block, width: int) -> str:
    parts = "  ".join(f"{visible(part.name)} {part.share:.0%}" for part in block.parts)
    title = visible(block.title)
    room = width - display_width(parts) - _GAP
    if room < 8:
        return fit(title, width)
    return pad(fit(title, room), room) + " " * _GAP + parts


def _bar(value: float, width: int, *, faint: bool) -> str:
    length = min(abs(value), 1.0) * width
    if faint or value < 0:
        return ("░" if faint else "▒") * (round(length) or int(value != 0))
    whole, eighth = divmod(round(length * 8), 8)
    return "█" * whole + (_EIGHTHS[eighth] if eighth else "") or ("▏" if value else "")


def _columns(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = zip(cells, widths, strict=True)
    return "".join(" " * (_GAP + w - display_width(cell)) + visible(cell) for cell, w in aligned)


def pad(text: str, width: int) -> str:
    """A text filled up with blanks."""
    return text + " " * (width - display_width(text))


def fit(text: str, width: int) -> str:
    """A text cut to so many columns, with … where something is missing."""
    if display_width(text) <= width:
        return text
    kept = ""
    for c in text:
        if display_width(kept + c) >= width:
            break
        kept += c
    return kept + "…"


def drawn_parts(parts: Sequence[Part]) -> list[tuple[str, float]]:
    """Positive parts in per cent of the larger of 1 and their sum, for a bar that is full at 1."""
    whole = max(1.0, sum(max(part.share, 0) for part in parts))
    return [(part.name, 100 * max(part.share, 0) / whole) for part in parts]
