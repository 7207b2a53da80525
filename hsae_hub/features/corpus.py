"""The text of an index: contexts in an order that follows from the data, from any saved position."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from hsae_hub.activations import OnProgress, StreamState, WindowStream, choose_rows
from hsae_hub.models import Hookpoint, LanguageModel
from hsae_hub.recipes import DataConfig


@runtime_checkable
class Corpus(Protocol):
    """Contexts, each once."""

    def take(self, n: int) -> list[Int64[Tensor, " _"]]:
        """The next `n` contexts, or as many as there are; none at the end."""
        ...

    def state_dict(self) -> StreamState:
        """Where it stands."""
        ...

    def load_state_dict(self, state: StreamState) -> None:
        """Goes on where another one of the same data stood.

        Raises:
            CorruptError: the text is not what it was.
        """
        ...


class Rows:
    """The rows of an embedding: every token is a context of its own."""

    def __init__(self, ids: Int64[Tensor, " rows"]) -> None:
        self._ids = ids
        self._at = 0

    def take(self, n: int) -> list[Int64[Tensor, " _"]]:
        """As for every corpus."""
        found = self._ids[self._at : self._at + n]
        self._at += len(found)
        return [row[None] for row in found]

    def state_dict(self) -> StreamState:
        """As for every corpus."""
        return StreamState({"at": self._at}, {})

    def load_state_dict(self, state: StreamState) -> None:
        """As for every corpus."""
        self._at = int(state.values["at"])


def open_corpus(
    data: DataConfig,
    lm: LanguageModel,
    hookpoint: Hookpoint,
    *,
    sample_seed: int,
    on_progress: OnProgress | None = None,
) -> Corpus:
    """The training text of `data`, or for an embedding the rows that are neither special nor too rare in it."""
    if hookpoint.side != "weight":
        # seed 0: the order of training's batches has no say in what is kept
        return WindowStream(data, lm, seed=0, sample_seed=sample_seed, on_progress=on_progress)
    rows = choose_rows(lm, hookpoint, data, sample_seed=sample_seed, on_progress=on_progress)
    return Rows(torch.cat([rows.trained, rows.heldout]).sort().values)
