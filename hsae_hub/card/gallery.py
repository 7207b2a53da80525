"""The gallery of a card: a few parents with their children, from `features/gallery.json`."""

from __future__ import annotations

from typing import Any, NamedTuple

from hsae_hub.card.reports import dict_of, list_of

SCHEMA = "hsae.gallery/1"
_PARENTS, _CHILDREN, _EXAMPLES = 3, 16, 5  # of each, at most
_LONGEST = 200  # characters of an example


class Child(NamedTuple):
    """A child in the gallery."""

    feature: str
    label: str
    share: str
    """Of the parent's tokens on which it acts."""
    examples: str


class Parent(NamedTuple):
    """A parent in the gallery."""

    feature: str
    label: str
    density: str
    examples: list[str]
    children: list[Child]


class Gallery(NamedTuple):
    """Some parents with their children."""

    on: str
    parents: list[Parent]


def gallery_of(data: dict[str, Any], sha256: str) -> Gallery | None:
    """The gallery that a file holds; None if it holds none, or one of other weights."""
    parents = [_parent(dict_of(each)) for each in list_of(data.get("parents"))[:_PARENTS]]
    if data.get("schema") != SCHEMA or data.get("sha256", sha256) != sha256 or not parents:
        return None
    tokens = data.get("tokens")
    counted = f"{tokens:,} tokens of " if isinstance(tokens, int) else ""
    return Gallery(f"{counted}{_text(data.get('data')) or 'text that is not named'}", parents)


def _parent(data: dict[str, Any]) -> Parent:
    children = [dict_of(each) for each in list_of(data.get("children"))[:_CHILDREN]]
    return Parent(
        _text(data.get("feature")),
        _text(data.get("label")),
        _share(data.get("density")),
        _examples(data),
        [
            Child(
                _text(child.get("feature")),
                _text(child.get("label")),
                _share(child.get("share")),
                " · ".join(_examples(child)),
            )
            for child in children
        ],
    )


def _examples(data: dict[str, Any]) -> list[str]:
    return [text for each in list_of(data.get("examples"))[:_EXAMPLES] if (text := _text(each))]


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else ""
    return text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + "…"


def _share(value: Any) -> str:
    return f"{value:.2%}" if isinstance(value, int | float) else "an unknown share"
