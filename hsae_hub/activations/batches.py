"""What training needs of a stream of activations, whether a language model is read meanwhile or not."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable
from zlib import crc32

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.artifact import HookpointConfig, ModelConfig, TokensConfig, VocabularyConfig


def epoch_order(n: int, seed: int, epoch: int) -> Int64[Tensor, " n"]:
    """The order in which an epoch takes `n` things: it follows from the seed and the epoch's number."""
    generator = torch.Generator().manual_seed(crc32(f"{seed}/{epoch}".encode()))
    return torch.randperm(n, generator=generator)


class Origin(NamedTuple):
    """Where activations come from: what an SAE that was trained on them says of itself."""

    model: ModelConfig
    hookpoint: HookpointConfig
    data: list[str]
    """One line a source."""
    tokens: TokensConfig | None = None
    vocabulary: VocabularyConfig | None = None


class StreamState(NamedTuple):
    """A position that can be saved: plain values for JSON, tensors for safetensors."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


@runtime_checkable
class Batches(Protocol):
    """Shuffled batches of raw activations, or of an embedding's rows, without end.

    The same seeds give the same batches on the same machine. Where several processes train together all have a stream,
    stand at the same place of it, and each is handed out its own part of every batch: the rows
    `ops.collective.part().rows(batch_size)`.
    """

    d_in: int
    tokens: int
    """Activations handed out so far to all processes, repeats counted."""
    wait_seconds: float
    """Time that was spent on waiting for activations."""

    @property
    def origin(self) -> Origin:
        """Where they come from."""
        ...

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        ...

    def fill(self) -> None:
        """Makes the next batch ready.

        Raises:
            UsageError: there is nothing to train on, or less than one batch.
        """
        ...

    def norm_sample(self) -> Float[Tensor, "sample d_in"]:
        """What the constants of normalising are fitted to, asked for once and before the first batch: in every process
        all of it.

        Raises:
            UsageError: there is nothing to train on, or less than one batch.
        """
        ...

    def next_batch(self) -> Float[Tensor, "batch d_in"]:
        """This process's part of the next batch, in the type that the activations were read in.

        Raises:
            UsageError: there is nothing to train on, or less than one batch.
        """
        ...

    def state_dict(self) -> StreamState:
        """Where the stream stands: the same in all processes."""
        ...

    def load_state_dict(self, state: StreamState) -> None:
        """Goes on where another stream of the same data stood.

        Raises:
            CorruptError: the data is not what it was.
        """
        ...

    def close(self) -> None:
        """Ends whatever reads in a thread, so that none is left behind; no batch is asked for after it."""
        ...
