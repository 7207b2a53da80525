"""Shuffled batches of raw activations, read from a language model as they are needed."""

from __future__ import annotations

import math
import os
import time
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.activations.ahead import Ahead
from hsae_hub.activations.batches import Origin, StreamState
from hsae_hub.activations.contexts import OnProgress
from hsae_hub.activations.reading import batch_contexts, read_batch
from hsae_hub.activations.windows import WindowStream
from hsae_hub.artifact import TokensConfig
from hsae_hub.errors import UsageError
from hsae_hub.models import Hookpoint, LanguageModel
from hsae_hub.ops import collective
from hsae_hub.recipes import DataConfig

NORM_SAMPLE = 10_000
"""Activations that the constants of normalising come from (10k tokens in the HierarchicalSAE paper)."""


def origin_of(lm: LanguageModel, hookpoint: Hookpoint, data: DataConfig) -> Origin:
    """What an SAE says of activations that are read at this place of this model.

    Raises:
        MisfitError: the model has no such place.
    """
    return Origin(
        lm.config(),
        hookpoint.config(lm),
        [source.describe() for source in data.train],
        TokensConfig(
            context_length=data.context_length,
            bos=data.bos and lm.tokenizer.bos_token_id is not None,
            skip_special=data.skip_special,
        ),
    )


class _Read(NamedTuple):
    """What one read of the language model gave."""

    rows: Float[Tensor, "tokens d_in"] | None
    """None where an epoch ends."""
    position: dict[str, Any]
    """Where the text stood after it."""


def has_room_for_a_thread(device: torch.device) -> bool:
    """Whether a language model runs beside training without taking from it: on a GPU, or where processors are idle."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return device.type != "cpu" or 2 * torch.get_num_threads() <= (usable or 1)


class ActivationStream:
    """Batches of activations of one place in a language model, mixed over `data.buffer_tokens` of them.

    A buffer is handed out in random order and refilled when half of it is used. Where all of the data fits into it, the
    language model reads each context only once, and an epoch is another order of the same activations. The same seeds
    give the same batches on the same machine, also across `state_dict` and `load_state_dict`.

    What the next refill takes is read meanwhile in a thread, so that the language model works while SAEs train: where
    that helps, or `ahead` says so. The batches are the same ones. It takes memory for half a buffer and one read more.

    Several processes share the work of the language model: each reads every so many contexts, and all have the same
    buffer. So the batches do not depend on how many they are. They read nothing ahead, since they exchange what they
    read, and gradients, in an order that all of them know.
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
        ahead: bool | None = None,
    ) -> None:
        self.lm = lm
        self.hookpoint = hookpoint
        self.data = data
        self.batch_size = batch_size
        self.d_in = hookpoint.width(lm)
        self.origin = origin_of(lm, hookpoint, data)
        self.tokens = 0
        """Activations handed out so far to all processes, repeats counted."""
        self.wait_seconds = 0.0
        """Time spent on reading text and activations."""
        self._windows = WindowStream(
            data, lm, seed=seed, sample_seed=sample_seed, on_progress=on_progress
        )
        self._on_progress = on_progress
        self._generator = torch.Generator().manual_seed(seed)
        self._buffer = torch.empty(0)
        self._order = torch.empty(0, dtype=torch.int64)
        self._at = 0
        self._spare = torch.empty(0)
        self._complete = False
        self._at_end = False
        self._position: dict[str, Any] | None = None
        if ahead is None:
            ahead = has_room_for_a_thread(self.device)
        self._ahead: Ahead[_Read] | None = None
        if ahead and collective.alone():
            self._ahead = Ahead(self._read_next, "harvest-ahead")

    @property
    def device(self) -> torch.device:
        """The language model's."""
        return self.lm.device

    def fill(self) -> None:
        """Fills the buffer where the next batch would have to.

        Raises:
            UsageError: there is no text, or less of it than one batch.
        """
        started = time.perf_counter()
        size, left = len(self._order), len(self._order) - self._at
        if size == 0:
            self._fill_first()
        elif self._complete and left < self.batch_size:
            self._shuffle()
        elif not self._complete and left < max(self.batch_size, size - size // 2):
            self._write(self._order[: self._at])
            self._shuffle()
        self._read_ahead()
        self.wait_seconds += time.perf_counter() - started

    def norm_sample(self) -> Float[Tensor, "sample d_in"]:
        """The next `NORM_SAMPLE` activations, rounded up to whole batches; all of them in every process.

        Raises:
            UsageError: there is no text, or less of it than one batch.
        """
        batches = range(math.ceil(NORM_SAMPLE / self.batch_size))
        return torch.cat([self._next(collective.Part()) for _ in batches])

    def next_batch(self) -> Float[Tensor, "batch d_in"]:
        """Of the next `batch_size` activations those of this process, on the language model's device and in its type.

        Raises:
            UsageError: there is no text, or less of it than one batch.
        """
        return self._next(collective.part())

    def state_dict(self) -> StreamState:
        """Where the stream stands, with its buffer."""
        windows = self._windows.state_dict(self._position)
        values: dict[str, Any] = {
            "tokens": self.tokens,
            "wait_seconds": self.wait_seconds,
            "at": self._at,
            "complete": self._complete,
            "windows": windows.values,
        }
        tensors = {
            "buffer": self._buffer,
            "order": self._order,
            "spare": self._spare,
            "generator": self._generator.get_state(),
        }
        return StreamState(values, tensors | windows.tensors)

    def load_state_dict(self, state: StreamState) -> None:
        """Goes on where another stream of the same data stood.

        Raises:
            CorruptError: the text is not what it was.
        """
        values, tensors = state
        if self._ahead is not None:
            self._ahead.forget()
        self._position = None
        self._windows.load_state_dict(StreamState(values["windows"], tensors))
        self.tokens = values["tokens"]
        self.wait_seconds = values["wait_seconds"]
        self._at = values["at"]
        self._complete = values["complete"]
        self._buffer = tensors["buffer"].to(self.lm.device)
        self._spare = tensors["spare"].to(self.lm.device)
        self._order = tensors["order"]
        self._generator.set_state(tensors["generator"])

    def close(self) -> None:
        """Ends the thread that reads ahead, after what it is reading now."""
        if self._ahead is not None:
            self._ahead.close()

    def _next(self, part: collective.Part) -> Float[Tensor, "part d_in"]:
        """Those of the next batch that are a part's."""
        self.fill()
        batch = self._order[self._at : self._at + self.batch_size]
        rows = batch[part.rows(self.batch_size)]
        self._at += self.batch_size
        self.tokens += self.batch_size
        return self._buffer[rows.to(self._buffer.device)]

    def _fill_first(self) -> None:
        self._windows.open()  # what it tells of its progress comes from this thread
        rows = self._harvest()
        if rows is None:
            rows = self._harvest_or_refuse()
        self._spare = rows
        capacity = self.data.buffer_tokens
        self._buffer = rows.new_empty(capacity, rows.shape[1])
        filled = self._write(torch.arange(capacity), stop_at_epoch=True)
        self._complete = filled < capacity
        if filled < self.batch_size:
            raise UsageError(
                f"the text gives {filled} activations, expected at least train.batch_size "
                f"(={self.batch_size})",
                fix="give more text, or --set train.batch_size=N",
            )
        self._buffer = self._buffer[:filled]
        self._order = torch.empty(filled, dtype=torch.int64)
        self._shuffle()

    def _write(self, slots: Int64[Tensor, " slots"], *, stop_at_epoch: bool = False) -> int:
        """Puts fresh activations into rows of the buffer; returns how many there were."""
        done = 0
        while done < len(slots):
            if len(self._spare) == 0:
                rows = self._harvest()
                if rows is None and stop_at_epoch:
                    break
                self._spare = rows if rows is not None else self._harvest_or_refuse()
            taken = self._spare[: len(slots) - done]
            self._buffer[slots[done : done + len(taken)].to(self._buffer.device)] = taken
            self._spare = self._spare[len(taken) :]
            done += len(taken)
            if self._on_progress:
                self._on_progress("fill", done, len(slots))
        return done

    def _shuffle(self) -> None:
        self._order = torch.randperm(len(self._order), generator=self._generator)
        self._at = 0

    def _harvest_or_refuse(self) -> Float[Tensor, "tokens d_in"]:
        rows = self._harvest()
        if rows is None:
            raise UsageError("there is no text to train on", why="every source is empty")
        return rows

    def _harvest(self) -> Float[Tensor, "tokens d_in"] | None:
        """Activations of the next contexts; None where an epoch ends."""
        if self._ahead is None:
            return self._read_next().rows
        rows, self._position = self._ahead.take()
        return rows

    def _read_ahead(self) -> None:
        """Lets the thread read what the next refill will take, but for what is left of the last one."""
        if self._ahead is None or self._complete:
            return
        most = self.data.batch_contexts * self.data.context_length
        done = [0 if read.rows is None else len(read.rows) for read in self._ahead.done()]
        coming = len(self._spare) + sum(done) + (self._ahead.begun - len(done)) * most
        while coming < len(self._order) // 2 + self.batch_size:
            self._ahead.begin()
            coming += most

    def _read_next(self) -> _Read:
        """Reads the next contexts: all that the thread does, where there is one."""
        rows = self._read_rows()
        return _Read(rows, self._windows.position())

    def _read_rows(self) -> Float[Tensor, "tokens d_in"] | None:
        rows = torch.empty(0)
        while len(rows) == 0:
            groups = self._take()
            if not groups:
                return None
            rank = collective.part().rank
            own = groups[rank] if rank < len(groups) else []
            rows = collective.all_rows(self._read(own))
        return rows

    def _take(self) -> list[list[Int64[Tensor, " _"]]]:
        """The next contexts for each process; for fewer of them where an epoch ends, and then once for none."""
        groups: list[list[Tensor]] = []
        while not self._at_end and len(groups) < collective.part().world:
            contexts = self._windows.take(self.data.batch_contexts)
            if contexts:
                groups.append(contexts)
            else:
                self._at_end = True
        self._at_end = self._at_end and bool(groups)  # told once, after the last ones
        return groups

    def _read(self, contexts: list[Int64[Tensor, " _"]]) -> Float[Tensor, "tokens d_in"]:
        if not contexts:
            return torch.empty(0, self.d_in, dtype=self.lm.dtype, device=self.lm.device)
        return read_batch(self.lm, self.hookpoint, batch_contexts(contexts, self.lm, self.data))
