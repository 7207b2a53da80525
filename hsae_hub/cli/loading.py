"""What the commands about a trained SAE share: finding it, its baseline, and text to measure on."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from hsae_hub.assets import embedded_sae
from hsae_hub.cli.common import Output
from hsae_hub.errors import UsageError

if TYPE_CHECKING:
    from hsae_hub.architectures import SAE
    from hsae_hub.recipes import DataConfig

Model = Annotated[
    str | None,
    typer.Option(help="Another language model than the one the SAE was trained on.", metavar="ID"),
]
TextFiles = Annotated[
    list[str] | None,
    typer.Option("--text", metavar="FILE", help="Measure on these files or globs; repeatable."),
]


class Found(NamedTuple):
    """An SAE, loaded."""

    sae: SAE[Any]
    folder: Path
    """Where its files lie on this machine."""
    revision: str | None
    """Commit on its hub; None for a folder."""

    @property
    def own(self) -> Path | None:
        """Where what is found out about it may be kept; None if it was pulled, is shipped or read-only."""
        others = self.revision is not None or is_shipped(self.folder)
        return None if others or not os.access(self.folder, os.W_OK) else self.folder


_LAZY_BYTES = 1 << 28
"""Weights from this size on stay on disk where a command reads a few rows of them."""


def find(
    ref: str, hub: str | None, out: Output, *, whole: bool = False, few_rows: bool = False
) -> Found:
    """Loads an SAE from a folder or a hub; `whole` pulls its baseline too.

    With `few_rows` a large one is read as it is needed, with the same results.

    Raises:
        HSAEError: whatever `hsae_hub.load` raises.
    """
    from hsae_hub.artifact import read_artifact
    from hsae_hub.hub import Hub, Ref, load
    from hsae_hub.hub.foreign import ForeignSAE
    from hsae_hub.hub.importing import fetch_foreign
    from hsae_hub.hub.pull import pull

    parsed = Ref.parse(ref)
    if parsed.folder is not None:
        lazy = few_rows and _is_large(parsed.folder)
        if lazy:
            out.talk(f"read as needed, not hashed: hsae verify {ref} looks at all of it")
        return Found(load(ref, lazy=lazy), parsed.folder, None)
    place = Hub(hub).place()
    with out.bars() as bars:
        on_progress = bars.of_bytes("pulling")
        try:
            pulled = pull(place, parsed, only_sae=not whole, on_progress=on_progress)
        except ForeignSAE as found:
            sae = fetch_foreign(place, found, on_progress=on_progress).sae
            snapshot = place.cache.snapshot(str(parsed.repo), found.commit)
            return Found(sae, snapshot / (parsed.subfolder or ""), found.commit)
    lazy = few_rows and _is_large(pulled.folder)
    sae = read_artifact(pulled.folder, verify=False, lazy=lazy, ref=str(parsed)).sae
    return Found(sae, pulled.folder, pulled.commit)


def is_shipped(folder: Path) -> bool:
    """Whether a folder is that of the SAE inside this package, or in it."""
    return folder.resolve().is_relative_to(embedded_sae().resolve())


def _is_large(folder: Path) -> bool:
    from hsae_hub.artifact import WEIGHTS

    path = folder / WEIGHTS
    return path.is_file() and path.stat().st_size >= _LAZY_BYTES


def read_text(text: str) -> str:
    """The text, or what comes on stdin for `-`.

    Raises:
        UsageError: it is not UTF-8, or nothing can come.
    """
    if text != "-":
        return in_unicode(text, "the text")
    if sys.stdin is None:
        raise UsageError("- reads stdin, which is closed")
    try:
        return in_unicode(sys.stdin.read(), "stdin")
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin is not UTF-8: {error}") from None


def in_unicode(text: str, name: str) -> str:
    """The text, which no tokenizer reads if some bytes of it were none of UTF-8.

    Raises:
        UsageError: they were none.
    """
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise UsageError(f"{name} is not UTF-8: {text[:80]!r}")
    return text


def read_file(file: Path) -> str:
    """The text of a file.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None


class Measuring(NamedTuple):
    """What an SAE is measured on."""

    data: DataConfig
    tokens: int
    seed: int
    """Of the text that the language model writes itself."""


def measuring(found: Found, files: list[str] | None) -> Measuring:
    """Text that an SAE was not trained on: the files, else what its run held out, else Python's documentation.

    Of an SAE of an embedding's rows, those that are held out among the tokens of that text, or among all of them.

    Raises:
        UsageError: the run's recipe cannot be read.
    """
    from hsae_hub.artifact import config_of
    from hsae_hub.recipes import (
        DataConfig,
        DataSource,
        EvalSection,
        VocabularySection,
        load_recipe,
    )

    run = found.folder / "resolved.yaml"
    recipe = load_recipe(run).recipe if found.revision is None and run.is_file() else None
    tokens = (recipe.eval if recipe else EvalSection()).tokens
    seed = recipe.seed_for("sample") if recipe else 0
    if recipe is not None and files is None:
        return Measuring(recipe.data, tokens, seed)
    source = DataSource(text=files) if files else DataSource(builtin="python-docs")
    known = config_of(found.sae)
    if known is not None and known.vocabulary is not None:
        rows = VocabularySection(min_count=known.vocabulary.min_count if files else 0)
        fraction = known.vocabulary.heldout_fraction
        data = DataConfig(train=[source], vocabulary=rows, heldout_fraction=fraction)
        return Measuring(data, tokens, seed)
    seen = known.tokens if known is not None else None
    as_trained = {} if seen is None else seen.model_dump()
    data = DataConfig(train=[source], heldout=[source] if files else None, **as_trained)
    return Measuring(data, tokens, seed)


def beside(found: Found) -> dict[str, SAE[Any]]:
    """The SAEs that were trained on the same batches, where they lie beside this one: its baseline, and its run's."""
    from hsae_hub.artifact import CONFIG, config_of, read_artifact
    from hsae_hub.recipes import load_recipe

    known = config_of(found.sae)
    names = [known.baseline] if known is not None and known.baseline is not None else []
    run = found.folder / "resolved.yaml"
    if found.revision is None and run.is_file():
        names += load_recipe(run).recipe.also
    return {
        name: read_artifact(found.folder / name).sae
        for name in names
        if (found.folder / name / CONFIG).is_file()
    }
