"""The recipes that travel with the package; reads files only, so that listing them loads no torch."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from hsae_hub.assets import assets
from hsae_hub.errors import NotFoundError, UsageError


class RecipeFile(NamedTuple):
    """A recipe that was found but not yet read."""

    name: str
    """`gemma2-tiny-en/l3_hsae` for a shipped recipe, else the file's name without its ending."""
    path: Path

    def text(self) -> str:
        """The recipe as written.

        Raises:
            UsageError: the file is not UTF-8.
        """
        try:
            return self.path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.path} is not UTF-8 text: {error.reason}") from None

    def summary(self) -> str:
        """Its first sentence: what it is."""
        comment = []
        for line in self.text().splitlines():
            if not line.startswith("#") or line.startswith("#  "):
                break
            comment.append(line.lstrip("# ").strip())
        return " ".join(comment).split(". ")[0].rstrip(".")


def list_recipes() -> list[str]:
    """Names of the shipped recipes, sorted, such as `gemma2-tiny-en/l3_hsae`."""
    folder = _folder()
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.yaml")
    )


def find_recipe(ref: str | Path, *, beside: Path | None = None) -> RecipeFile:
    """A recipe by path (relative to `beside`, else to the working folder) or by the name of a shipped one.

    Raises:
        NotFoundError: neither exists.
        UsageError: it is a folder.
    """
    path = (beside or Path()) / ref
    if path.is_file():
        return RecipeFile(path.stem, path)
    known = list_recipes()
    name = str(ref).removesuffix(".yaml")
    if name in known:
        return RecipeFile(name, _folder() / f"{name}.yaml")
    if path.is_dir():
        raise UsageError(f"{ref} is a folder, not a recipe", fix="hsae recipes ls")
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    raise NotFoundError(
        f"no recipe {str(ref)!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
        why="it is neither a file nor the name of a shipped recipe",
        fix="hsae recipes ls",
    )


def _folder() -> Path:
    return Path(str(assets("train")))
