"""Shuffled batches of an embedding's rows, a row a token (Muchane et al. 2025, appendix B)."""

from __future__ import annotations

import time

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.activations.batches import Origin, StreamState, epoch_order
from hsae_hub.activations.contexts import OnProgress
from hsae_hub.activations.stream import origin_of
from hsae_hub.activations.vocabulary import choose_rows, describe_rows
from hsae_hub.artifact import VocabularyConfig
from hsae_hub.models import Hookpoint, LanguageModel
from hsae_hub.ops import collective
from hsae_hub.recipes import DataConfig


class RowStream:
    """Batches of an embedding's rows: every epoch another order of all of them, batches go on across its end.

    A position is all that is saved, beside which rows there are: on resuming no text is read again.
    """

    def __init__(
        self,
        lm: LanguageModel,
        hookpoint: Hookpoint,
        data: DataConfig,
        *,
        batch_size: int,
        seed: int,
        sample_seed: int,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.lm = lm
        self.batch_size = batch_size
        self.tokens = 0
        """Rows handed out so far to all processes, repeats counted."""
        self.wait_seconds = 0.0
        """Time spent on counting tokens and on reading rows."""
        self._hookpoint = hookpoint
        self._data = data
        self._seed = seed
        self._sample_seed = sample_seed
        self._on_progress = on_progress
        self._place = origin_of(lm, hookpoint, data)._replace(tokens=None)
        self._weight = hookpoint.rows(lm)
        self.d_in = self._weight.shape[1]
        self._trained = torch.empty(0, dtype=torch.int64)
        self._vocabulary: VocabularyConfig | None = None
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def origin(self) -> Origin:
        """The model and its rows; which ones is known after `fill`."""
        config = self._vocabulary
        if config is None:
            return self._place
        lines = [describe_rows(config, str(self._hookpoint), heldout=False)]
        counted = [f"counted in {line}" for line in self._place.data] if config.min_count else []
        return self._place._replace(data=[*lines, *counted], vocabulary=config)

    @property
    def device(self) -> torch.device:
        """The embedding's."""
        return self._weight.device

    def fill(self) -> None:
        """Chooses the rows, at the first call.

        Raises:
            UsageError: there is no text to count tokens in, or no token is frequent enough.
        """
        if self._vocabulary is not None:
            return
        started = time.perf_counter()
        found = choose_rows(
            self.lm,
            self._hookpoint,
            self._data,
            sample_seed=self._sample_seed,
            on_progress=self._on_progress,
        )
        self._trained, self._vocabulary = found.trained, found.config
        self.wait_seconds += time.perf_counter() - started

    def norm_sample(self) -> Float[Tensor, "trained d_in"]:
        """All rows that are trained on.

        Raises:
            UsageError: there is no text to count tokens in, or no token is frequent enough.
        """
        self.fill()
        return self._weight[self._trained.to(self.device)]

    def next_batch(self) -> Float[Tensor, "batch d_in"]:
        """Of the next `batch_size` rows those of this process, in the type that the model is in.

        Raises:
            UsageError: there is no text to count tokens in, or no token is frequent enough.
        """
        self.fill()
        parts: list[Tensor] = []
        end = self.tokens + self.batch_size
        while self.tokens < end:
            epoch, at = divmod(self.tokens, len(self._trained))
            parts.append(self._shuffled(epoch)[at : at + end - self.tokens])
            self.tokens += len(parts[-1])
        own = torch.cat(parts)[collective.part().rows(self.batch_size)]
        return self._weight[own.to(self.device)]

    def state_dict(self) -> StreamState:
        """Where the stream stands, and which rows there are."""
        values = {
            "tokens": self.tokens,
            "wait_seconds": self.wait_seconds,
            "vocabulary": self._vocabulary.model_dump() if self._vocabulary else None,
        }
        return StreamState(values, {"trained": self._trained})

    def load_state_dict(self, state: StreamState) -> None:
        """Goes on where another stream of the same data stood."""
        values, tensors = state
        self.tokens = values["tokens"]
        self.wait_seconds = values["wait_seconds"]
        known = values["vocabulary"]
        self._vocabulary = None if known is None else VocabularyConfig(**known)
        self._trained = tensors["trained"]
        self._epoch = -1

    def close(self) -> None:
        """Nothing reads in a thread."""

    def _shuffled(self, epoch: int) -> Int64[Tensor, " trained"]:
        if epoch != self._epoch:
            order = epoch_order(len(self._trained), self._seed, epoch)
            self._epoch, self._order = epoch, self._trained[order]
        return self._order
