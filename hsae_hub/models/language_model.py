"""A causal language model with its tokenizer, and the lock that every forward of it takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hsae_hub.artifact import ModelConfig, dtype_name

_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_LOCKS_LOCK = Lock()


def model_lock(hf: nn.Module) -> Any:
    """The re-entrant lock of a model: hooks and nnsight's greenlets bear only one thread at a time."""
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(hf, RLock())


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of what every token id stands for, added and special tokens included.

    Not in it are settings such as the padding side, and the layout of `tokenizer.json`, which changes with releases.
    """
    return sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def execution_device(module: nn.Module) -> torch.device:
    """Where a module computes: where its first weight is, or where accelerate will bring it; a server's is the CPU."""
    for part in module.modules():
        placed = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if placed is not None:
            return torch.device(placed)
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None or first.is_meta else first.device


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A Hugging Face causal language model in eval mode, without gradients, and its tokenizer."""

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    id: str
    """Name of the embedded model, repository on the hub, or folder."""
    revision: str | None = None
    """Commit on the hub; None for the embedded model, folders and models that were handed over loaded."""
    remote: bool = False
    """Whether its weights are elsewhere, on a server or in vLLM: what is here has shapes and no values."""
    reader: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    """Reads activations there, as `read_activations` does here; None where nothing can."""

    @property
    def device(self) -> torch.device:
        """Where its inputs go."""
        return execution_device(self.hf)

    @property
    def dtype(self) -> torch.dtype:
        """Type it runs in."""
        found: torch.dtype = self.hf.dtype
        return found

    def config(self) -> ModelConfig:
        """What an SAE's `config.json` says of it."""
        return ModelConfig(
            id=self.id,
            revision=self.revision,
            dtype=dtype_name(self.dtype),
            tokenizer_sha256=tokenizer_sha256(self.tokenizer),
        )

    @property
    def readable(self) -> bool:
        """Whether its activations come here."""
        return not self.remote or self.reader is not None

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.hf.config.get_text_config().hidden_size)

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return int(self.hf.config.get_text_config().num_hidden_layers)

    @property
    def max_tokens(self) -> int | None:
        """Tokens of a text that it can read; None where its config does not say."""
        found = getattr(self.hf.config.get_text_config(), "max_position_embeddings", None)
        return None if found is None else int(found)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of BOS, EOS, padding and the tokenizer's other special tokens."""
        return frozenset(int(i) for i in self.tokenizer.all_special_ids)

    @cached_property
    def special(self) -> Int64[Tensor, " special"]:
        """The same as a tensor on the CPU, in order."""
        return torch.tensor(sorted(self.special_ids), dtype=torch.int64)
