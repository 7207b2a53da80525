"""Which foreign formats there are, and how a folder of each is known. Only reading one loads torch."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from hsae_hub.errors import DeniedError, UsageError


class Format(NamedTuple):
    """One format: how a folder of it is known, which of its files are needed, and where they are read."""

    name: str
    """As `--format` takes it."""
    title: str
    """As people call it."""
    module: str
    """The file beside this one whose `read` takes a folder, or one file of it where a folder holds several SAEs, and
    its full name, wherever it lies, for what only names tell; it gives `Told`.

    Raises:
        NotFoundError: a file is missing.
        CorruptError: it is not what the format says.
        UsageError: it is, and no architecture here computes the same.
    """
    matches: Callable[[frozenset[str]], bool]
    """Whether a folder is one, from the names in it; a folder's name ends with `/`."""
    files: tuple[str, ...]
    """Patterns of the files that reading takes, relative to the folder."""
    pickled: bool = False
    """Whether its weights are a pickle, which is read only if the user says so."""
    one_file: bool = False
    """Whether each file that reading takes is an SAE of its own."""


FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format(
            "sae-lens",
            "SAELens",
            "sae_lens_import",
            lambda names: {"cfg.json", "sae_weights.safetensors"} <= names,
            ("cfg.json", "sae_weights.safetensors"),
        ),
        Format(
            "sparsify",
            "sparsify",
            "sparsify",
            lambda names: {"cfg.json", "sae.safetensors"} <= names,
            ("cfg.json", "sae.safetensors", "../config.json"),
        ),
        Format(
            "dictionary-learning",
            "dictionary_learning",
            "dictionary_learning",
            lambda names: {"ae.pt", "config.json"} <= names,
            ("ae.pt", "config.json"),
            pickled=True,
        ),
        Format(
            "gemma-scope",
            "Gemma Scope",
            "gemma_scope",
            lambda names: "params.npz" in names,
            ("params.npz",),
        ),
        Format(
            "gemma-scope-2",
            "Gemma Scope 2",
            "gemma_scope_2",
            lambda names: "params.safetensors" in names,
            ("params.safetensors", "config.json"),
        ),
        Format(
            "hsae-jax",
            "the H-SAE authors' JAX code",
            "hsae_jax",
            lambda names: {"model/", "hyperparameters/"} <= names,
            ("hyperparameters/metadata", "model/*"),
        ),
        Format(
            "openai",
            "OpenAI",
            "openai",
            lambda names: (
                any(name.endswith(".pt") for name in names) and "config.json" not in names
            ),
            ("*.pt",),
            pickled=True,
            one_file=True,
        ),
    )
}
"""Every foreign format by its name, the more particular ones first."""


def recognise(names: frozenset[str]) -> Format | None:
    """The format of a folder, from the names in it (a folder's ends with `/`); None if it is none of these."""
    return next((each for each in FORMATS.values() if each.matches(names)), None)


def recognise_folder(path: Path) -> Format | None:
    """The same for a folder, or a single file, of this machine."""
    if path.is_file():
        return recognise(frozenset({path.name}))
    if not path.is_dir():
        return None
    return recognise(frozenset(p.name + "/" * p.is_dir() for p in path.iterdir()))


def format_named(name: str) -> Format:
    """The format of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r}", fix=f"known: {', '.join(FORMATS)}")
    return FORMATS[name]


def needs(each: Format, path: str) -> bool:
    """Whether reading takes a file, by its path relative to the SAE's folder."""
    return any(fnmatchcase(path, pattern) for pattern in each.files)


def check_pickle(each: Format, where: str, allowed: bool) -> None:
    """Raises DeniedError for a pickle that nobody allowed."""
    if each.pickled and not allowed:
        raise DeniedError(
            f"{where} is in the format of {each.title}, whose weights are a pickle",
            why="a pickle can run code; here it is read with tensors, numbers and texts only, if you say so",
            fix=f"hsae import {where} DIR --allow-pickle\nhsae_hub.load({where!r}, allow_pickle=True)",
        )
