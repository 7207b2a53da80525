"""What every foreign format gives: an SAE in our terms, and what its files tell of where it belongs."""

from __future__ import annotations

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
