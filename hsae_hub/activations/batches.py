"""What training needs of a stream of activations, whether a language model is read meanwhile or not."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.artifact import HookpointConfig, ModelConfig, TokensConfig, VocabularyConfig


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

    The same seeds give the same batches on the same machine.
    """

    d_in: int
    tokens: int
    """Activations handed out so far, repeats counted."""
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
        """What the constants of normalising are fitted to, asked for once and before the first batch.

        Raises:
            UsageError: there is nothing to train on, or less than one batch.
        """
        ...

    def next_batch(self) -> Float[Tensor, "batch d_in"]:
        """The next activations, in the type that they were read in.

        Raises:
            UsageError: there is nothing to train on, or less than one batch.
        """
        ...

    def state_dict(self) -> StreamState:
        """Where the stream stands."""
        ...

    def load_state_dict(self, state: StreamState) -> None:
        """Goes on where another stream of the same data stood.

        Raises:
            CorruptError: the data is not what it was.
        """
        ...
