"""Cards as text: their metadata, the notes in them, and what they lack."""

from __future__ import annotations

import re
from typing import Any

CARD = "README.md"
TAGS = ["sparse-autoencoder", "hsae", "interpretability", "mechanistic-interpretability"]
NOTES_BEGIN, NOTES_END = "<!-- hsae:notes -->", "<!-- /hsae:notes -->"
NOTES_HINT = "<!-- Anything written here stays when the card is written again. -->"
_MARK = "<!-- hsae-hub card "
_SECTIONS = (
    "How to load",
    "Intended use",
    "Where it reads the model",
    "What was measured",
    "Training",
    "Data",
    "Limits",
    "Licences",
    "How to cite",
    "Files",
)
_PLACEHOLDERS = re.compile(
    r"\[more information needed\]|\bTODO\b|\bFIXME\b|\{\{|\[your[ -][^\]]*\]|<your[ -][^>]*>", re.I
)


def is_rendered(text: str) -> bool:
    """Whether a card was written by `render_card`, so that writing it again loses nothing but what it got wrong."""
    return _MARK in text and NOTES_BEGIN in text and NOTES_END in text


def check_card(text: str) -> list[str]:
    """What a card lacks, one line each; none if it can be published."""
    front, problem = _front(text)
    if front is None:
        return [problem]
    problems = []
    for key in ("library_name", "license", "tags"):
        if not front.get(key):
            problems.append(f"its metadata lacks {key}")
    tags = front.get("tags") or []
    missing = [tag for tag in TAGS[:2] if not isinstance(tags, list) or tag not in tags]
    if missing:
        problems.append(f"its tags lack {', '.join(missing)}")
    if is_rendered(text):
        headings = set(re.findall(r"^## (.+)$", text, re.M))
        problems += [f"it lacks the section {name!r}" for name in _SECTIONS if name not in headings]
        start, end = text.index(NOTES_BEGIN), text.index(NOTES_END)  # the rest may quote any text
    else:
        start, end = 0, len(text)
    found = _PLACEHOLDERS.search(text, start, end)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        problems.append(f"line {line} is not filled in: {found[0]}")
    return problems


def front_of(text: str) -> dict[str, Any] | None:
    """A card's metadata; None if there is none that can be read."""
    return _front(text)[0]


def _front(text: str) -> tuple[dict[str, Any] | None, str]:
    """A card's metadata, or what is wrong with it."""
    found = re.match(r"---\r?\n(.*?\n)---\r?\n", text, re.S)
    if found is None:
        return None, "it does not begin with metadata between two lines ---"
    import yaml  # who asks for the name of a card needs none

    try:
        data = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 2} of it: " if mark else ""
        told = getattr(error, "problem", None) or str(error)
        return None, f"its metadata is not YAML: {line}{' '.join(str(told).split())}"
    if not isinstance(data, dict):
        return None, "its metadata is no mapping of keys to values"
    return data, ""


def license_of(text: str) -> str | None:
    """The licence that a card states."""
    license = (front_of(text) or {}).get("license")
    return license if isinstance(license, str) and license != "unknown" else None


def notes_of(text: str) -> str:
    """What was written by hand: between a card's markers, or, in one without them, all but metadata and templates."""
    if not is_rendered(text):
        body = re.sub(r"\A---\r?\n(.*?\n)?---\r?\n", "", text, flags=re.S).strip()
        return "" if _PLACEHOLDERS.search(body) else body
    _, _, rest = text.partition(NOTES_BEGIN)
    notes, _, _ = rest.partition(NOTES_END)
    return notes.strip("\r\n").replace(NOTES_HINT, "").strip("\r\n")
