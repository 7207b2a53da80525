"""The recipes and suites that travel with the package; reads files only, so that listing them loads no torch."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

from hsae_hub.assets import assets
from hsae_hub.errors import NotFoundError, UsageError

_SUITES = "suites"


class RecipeFile(NamedTuple):
    """A recipe, or a suite of them, that was found but not yet read."""

    name: str
    """`gemma2-tiny-en/l3_hsae` for a shipped one, else the file's name without its ending."""
    path: Path

    def text(self) -> str:
        """The file as written.

        Raises:
            UsageError: the file is not UTF-8.
        """
        try:
            return self.path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.path} is not UTF-8 text: {error.reason}") from None

    def summary(self) -> str:
        """Its first line: what it is."""
        return self.text().partition("\n")[0].lstrip("# ").rstrip(". ")


def list_recipes() -> list[str]:
    """Names of the shipped recipes, such as `gemma2-tiny-en/l3_hsae`; numbers in them sort as numbers."""
    folder = _folder()
    paths = (path.relative_to(folder) for path in folder.glob("*/*.yaml"))
    return sorted((f"{path.parent.name}/{path.stem}" for path in paths), key=_by_numbers)


def _by_numbers(name: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def list_suites() -> list[str]:
    """Names of the shipped suites, sorted, such as `gemma2-tiny-en/feature-groups`."""
    return sorted(
        f"{path.parent.parent.name}/{path.stem}" for path in _folder().glob(f"*/{_SUITES}/*.yaml")
    )


def find_recipe(ref: str | Path, *, beside: Path | None = None) -> RecipeFile:
    """A recipe by path (relative to `beside`, else to the working folder) or by the name of a shipped one.

    Raises:
        NotFoundError: neither exists.
        UsageError: it is a folder.
    """
    return _find(ref, beside or Path(), "recipe", list_recipes())


def find_suite(ref: str | Path) -> RecipeFile:
    """A suite by path or by the name of a shipped one.

    Raises:
        NotFoundError: neither exists.
        UsageError: it is a folder.
    """
    return _find(ref, Path(), "suite", list_suites())


def _find(
    ref: str | Path, beside: Path, what: Literal["recipe", "suite"], known: list[str]
) -> RecipeFile:
    path = beside / ref
    if path.is_file():
        return RecipeFile(path.stem, path)
    name = str(ref).removesuffix(".yaml")
    listing = "hsae recipes ls" if what == "recipe" else "hsae suite ls"
    if name in known:
        model, _, own = name.rpartition("/")
        folder = _folder() / model / ("" if what == "recipe" else _SUITES)
        return RecipeFile(name, folder / f"{own}.yaml")
    if path.is_dir():
        raise UsageError(f"{ref} is a folder, not a {what}", fix=listing)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    raise NotFoundError(
        f"no {what} {str(ref)!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
        why=f"it is neither a file nor the name of a shipped {what}",
        fix=listing,
    )


def _folder() -> Path:
    return Path(str(assets("train")))
