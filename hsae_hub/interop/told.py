"""What every foreign format gives: an SAE in our terms, and what its files tell of where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from hsae_hub.artifact import HookpointConfig, ModelConfig, TokensConfig


class Told(NamedTuple):
    """A foreign SAE: its values are finite, but its tensors are not yet compared with its config."""

    config: dict[str, Any]
    """Of the architecture here that computes the same."""
    tensors: dict[str, Tensor]
    """By their names here, in our orientation."""
    notes: tuple[str, ...]
    """What was changed, and what the files do not say."""
    model: ModelConfig | None = None
    hookpoint: HookpointConfig | None = None
    tokens: TokensConfig | None = None


class Format(NamedTuple):
    """One format: how a folder of it is known, which of its files are needed, and how they are read."""

    name: str
    """As `--format` takes it."""
    title: str
    """As people call it."""
    matches: Callable[[frozenset[str]], bool]
    """Whether a folder is one, from the names in it; a folder's name ends with `/`."""
    files: tuple[str, ...]
    """Patterns of the files that reading takes, relative to the folder."""
    read: Callable[[Path, str], Told]
    """Reads a folder, or one file of it where a folder holds several SAEs; the text is its full name, wherever it
    lies, for what only names tell.

    Raises:
        NotFoundError: a file is missing.
        CorruptError: it is not what the format says.
        UsageError: it is, and no architecture here computes the same.
    """
    pickled: bool = False
    """Whether its weights are a pickle, which is read only if the user says so."""
    one_file: bool = False
    """Whether each file that reading takes is an SAE of its own."""
