"""What can be drawn: blocks of rows, rows with rows below them."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One thing with a bar and a few cells, and what belongs to it."""

    id: str
    bar: float
    """Length of the bar, 0 to 1 of the longest one; below 0 it is drawn as a negative one."""
    cells: tuple[str, ...]
    label: str | None = None
    """Words for it, shown before its id."""
    below: tuple[Row, ...] = ()
    faint: bool = False
    """Whether it is there for comparison only."""


class Part(NamedTuple):
    """A share of a whole."""

    name: str
    share: float
    """Below 0 it takes away from the parts before it and is not drawn."""


class Block(NamedTuple):
    """A headline, what its whole is made of, and rows."""

    title: str
    parts: tuple[Part, ...]
    rows: tuple[Row, ...]
    note: str = ""


class Tree(NamedTuple):
    """Everything on one page."""

    title: str
    subtitle: str
    columns: tuple[str, ...]
    """Heads of the cells."""
    blocks: tuple[Block, ...]
    footnote: str = ""
