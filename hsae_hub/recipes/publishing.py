"""What of a recipe strangers may read."""

from __future__ import annotations

from pathlib import Path

from hsae_hub.recipes.text import dump, parse


def without_paths(text: str) -> str:
    """A recipe's text with only the name of the folder that `data.cache` gives, not its place on this machine."""
    data = parse(text, "recipe").data
    section = data.get("data") if isinstance(data, dict) else None
    cache = section.get("cache") if isinstance(section, dict) else None
    if not isinstance(section, dict) or not isinstance(cache, str):
        return text
    section["cache"] = name = Path(cache).name
    told = text.replace(cache, name)
    return told if parse(told, "recipe").data == data else dump(data)
