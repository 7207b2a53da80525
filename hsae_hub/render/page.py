"""What a page about one thing is made of: where it stands, short facts, and sections."""

from __future__ import annotations

from typing import NamedTuple


class Mark(NamedTuple):
    """A piece of a text."""

    text: str
    weight: float
    """How much it is marked, 0 to 1."""
    chosen: bool = False
    """Whether the text is shown for its sake."""


class Context(NamedTuple):
    """A line of text with a number before it."""

    value: str
    marks: tuple[Mark, ...]


class Tile(NamedTuple):
    """One of several things of a kind."""

    id: str
    label: str
    weight: float
    """Length of its bar, 0 to 1."""
    note: str
    contexts: tuple[Context, ...] = ()
    chosen: bool = False
    faint: bool = False
    target: str = ""
    """What a click on it chooses, where a page can be clicked."""


class Tiles(NamedTuple):
    """Things of a kind, side by side."""

    title: str
    tiles: tuple[Tile, ...]


class Histogram(NamedTuple):
    """Bars over a line from `low` to `high`."""

    title: str
    heights: tuple[float, ...]
    low: str
    high: str
    note: str = ""
    mark: float | None = None
    """A place on the line, 0 to 1."""


class Pairs(NamedTuple):
    """Names with a number each."""

    title: str
    pairs: tuple[tuple[str, str], ...]
    targets: tuple[str, ...] = ()
    """What a click on each chooses, where a page can be clicked; none or as many as there are pairs."""


class Contexts(NamedTuple):
    """Lines of text."""

    title: str
    contexts: tuple[Context, ...]


Section = Tiles | Histogram | Pairs | Contexts


class Page(NamedTuple):
    """Everything about one thing."""

    crumbs: tuple[tuple[str, str], ...]
    """Words and id of what it belongs to, and its own at the end."""
    subtitle: str
    chips: tuple[str, ...]
    """Short facts."""
    sections: tuple[Section, ...]
    footnote: str = ""
