"""The training contexts, without end, in an order that follows from a seed, and from any saved position."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, Protocol

import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from hsae_hub.activations.batches import StreamState, epoch_order
from hsae_hub.activations.contexts import OnProgress, sampled, tokenise, with_bos
from hsae_hub.activations.sources import documents, fits_in_memory, is_heldout, text_files
from hsae_hub.errors import CorruptError, UsageError
from hsae_hub.models import LanguageModel
from hsae_hub.ops import collective
from hsae_hub.recipes import DataConfig, DataSource

CHUNK = 64
"""Documents that are tokenised together when they are streamed."""


class WindowStream:
    """The training contexts of a recipe's data, epoch after epoch.

    Sources that fit in memory are one pool, shuffled anew each epoch; data sets and large files are read in their own
    order. One context is taken from each in turn; a source that has ended waits for the next epoch.
    """

    def __init__(
        self,
        data: DataConfig,
        lm: LanguageModel,
        *,
        seed: int,
        sample_seed: int,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.data = data
        self.lm = lm
        self.epoch = 0
        self._seed = seed
        self._sample_seed = sample_seed
        self._on_progress = on_progress
        self._sampled: list[Tensor] | None = None
        self._readers: list[_Reader] = []
        self._alive: list[int] = []
        self._turn = 0

    def open(self) -> None:
        """Reads the text, and writes the part that is sampled; `take` does it where it was not done.

        Raises:
            UsageError: there is none.
        """
        if not self._readers:
            self._open()
            self._restart()

    def take(self, n: int) -> list[Int64[Tensor, " _"]]:
        """The next `n` contexts, or as many as the epoch still has; an empty list once, where one epoch ends."""
        self.open()
        pieces: list[Tensor] = []
        while len(pieces) < n and (piece := self._next()) is not None:
            pieces.append(piece)
        if not pieces:
            self.epoch += 1
            self._restart()
        return [with_bos(piece, self.lm, self.data) for piece in pieces]

    def position(self) -> dict[str, Any]:
        """Where the stream stands, in a few numbers; none before it is opened."""
        if not self._readers:
            return {}
        return {
            "epoch": self.epoch,
            "turn": self._turn,
            "alive": list(self._alive),
            "readers": [reader.position() for reader in self._readers],
        }

    def state_dict(self, position: dict[str, Any] | None = None) -> StreamState:
        """Where the stream stands, or stood at a position, with the text that was sampled."""
        position = self.position() if position is None else position
        if not position:
            return StreamState({}, {})
        values = {**position, "text": [reader.fingerprint() for reader in self._readers]}
        pieces = self._sampled or []
        lengths = torch.tensor([len(piece) for piece in pieces], dtype=torch.int64)
        tokens = torch.cat([torch.empty(0, dtype=torch.int32), *pieces])
        return StreamState(values, {"sampled": tokens, "sampled_lengths": lengths})

    def load_state_dict(self, state: StreamState) -> None:
        """Goes on where another stream of the same data stood.

        Raises:
            CorruptError: the text is not what it was.
        """
        self._readers = []
        if not state.values:
            return
        tokens, lengths = state.tensors["sampled"], state.tensors["sampled_lengths"]
        ends = lengths.cumsum(0)
        self._sampled = [
            tokens[start:end]
            for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True)
        ]
        self._open()
        if [reader.fingerprint() for reader in self._readers] != state.values["text"]:
            raise CorruptError(
                "the training text is not the one that this run began with",
                why="a text file, Python's version or the tokenizer changed since the checkpoint",
                fix="restore it, or start again in another folder",
            )
        self.epoch = state.values["epoch"]
        self._turn = state.values["turn"]
        self._alive = list(state.values["alive"])
        for i in self._alive:
            self._readers[i].restart(self.epoch, state.values["readers"][i])

    def _restart(self) -> None:
        self._turn = 0
        self._alive = list(range(len(self._readers)))
        for reader in self._readers:
            reader.restart(self.epoch, [0, 0])

    def _next(self) -> Int32[Tensor, " _"] | None:
        while self._alive:
            turn = self._turn % len(self._alive)
            piece = self._readers[self._alive[turn]].next()
            if piece is not None:
                self._turn = turn + 1
                return piece
            del self._alive[turn]
        return None

    def _open(self) -> None:
        data, lm = self.data, self.lm
        fraction = 0.0 if data.heldout else data.heldout_fraction
        if self._sampled is None:
            self._sampled = []
            for i, source in enumerate(data.train):
                if source.sample is not None:
                    seed = f"{self._sample_seed}/train/{i}"
                    self._sampled += collective.from_first(
                        partial(sampled, source, source.sample, seed, lm, data, self._on_progress)
                    )
        pool = list(self._sampled)
        streamed: list[_Reader] = []
        for source in data.train:
            if source.sample is None and fits_in_memory(source):
                texts = [text for text in documents(source) if not is_heldout(text, fraction)]
                pool += tokenise(lm, texts, data)
            elif source.sample is None:
                streamed.append(_Streamed(source, fraction, lm, data))
        self._readers = [_Pool(pool, self._seed), *streamed] if pool else streamed
        if not self._readers:
            raise UsageError(
                "there is no text to train on",
                why="the files of data.train are empty, or all of their documents are held out",
            )
        if not collective.is_alike([reader.fingerprint() for reader in self._readers]):
            raise UsageError(
                "the processes of this run do not read the same training text",
                why="a text file, Python's version or the tokenizer is not the same on all machines",
            )


class _Reader(Protocol):
    def restart(self, epoch: int, position: list[int]) -> None: ...
    def next(self) -> Int32[Tensor, " _"] | None: ...
    def position(self) -> list[int]: ...
    def fingerprint(self) -> str: ...


class _Pool:
    """Pieces in memory, in an order that follows from the seed and the epoch."""

    def __init__(self, pieces: list[Int32[Tensor, " _"]], seed: int) -> None:
        self._pieces = pieces
        self._seed = seed
        self._order: list[int] = []
        self._at = 0

    def restart(self, epoch: int, position: list[int]) -> None:
        self._order = epoch_order(len(self._pieces), self._seed, epoch).tolist()
        self._at = position[0]

    def next(self) -> Int32[Tensor, " _"] | None:
        if self._at == len(self._order):
            return None
        self._at += 1
        return self._pieces[self._order[self._at - 1]]

    def position(self) -> list[int]:
        return [self._at, 0]

    def fingerprint(self) -> str:
        hashed = hashlib.sha256()
        for piece in self._pieces:
            hashed.update(len(piece).to_bytes(4, "little") + piece.numpy().tobytes())
        return hashed.hexdigest()


class _Streamed:
    """Documents that are read, and tokenised by chunks, as they are needed."""

    def __init__(
        self, source: DataSource, fraction: float, lm: LanguageModel, data: DataConfig
    ) -> None:
        self._source = source
        self._fraction = fraction
        self._lm = lm
        self._data = data
        self._documents: Iterator[str] = iter(())
        self._chunk: list[str] = []
        self._pieces: list[Tensor] = []
        self._start = 0
        self._at = 0

    def restart(self, epoch: int, position: list[int]) -> None:
        self._start, at = position
        self._documents = documents(self._source, start=self._start)
        self._read()
        self._at = at

    def next(self) -> Int32[Tensor, " _"] | None:
        while self._at == len(self._pieces):
            if not self._chunk:
                return None
            self._start += len(self._chunk)
            self._read()
        self._at += 1
        return self._pieces[self._at - 1]

    def position(self) -> list[int]:
        return [self._start, self._at]

    def fingerprint(self) -> str:
        files = text_files(self._source.text or [])
        return " ".join([self._source.describe(), *(str(path.stat().st_size) for path in files)])

    def _read(self) -> None:
        self._chunk = list(islice(self._documents, CHUNK))
        texts = [text for text in self._chunk if not is_heldout(text, self._fraction)]
        self._pieces = tokenise(self._lm, texts, self._data)
        self._at = 0
