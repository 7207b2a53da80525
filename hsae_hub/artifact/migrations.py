"""How configs of older formats become the current one. The list only ever grows at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hsae_hub.artifact.config import FORMAT_VERSION
from hsae_hub.errors import CorruptError

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""From version `n` to `n + 1`; entries are never edited once released."""


def migrate(data: dict[str, Any], where: str) -> dict[str, Any]:
    """The content of a `config.json` of any known version, in the current one.

    Raises:
        CorruptError: no version, or one that this release cannot read.
    """
    version = data.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CorruptError(
            f"{where}: format_version is {version!r}, expected a number from 1 to {FORMAT_VERSION}",
            why="it was not written by hsae-hub, or it was edited",
        )
    if version > FORMAT_VERSION:
        raise CorruptError(
            f"{where} has format_version {version}; this hsae-hub reads up to {FORMAT_VERSION}",
            why="it was written by a newer hsae-hub",
            fix="pip install --upgrade hsae-hub",
        )
    for step in range(version, FORMAT_VERSION):
        data = MIGRATIONS[step](data) | {"format_version": step + 1}
    return data
