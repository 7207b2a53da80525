"""How a language model writes: what is drawn, and where it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import (
    LogitsProcessor,
    PreTrainedModel,
    StoppingCriteria,
    StopStringCriteria,
)

from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel


@dataclass(frozen=True)
class Writing:
    """How a model writes.

    Raises:
        UsageError: no new tokens, a temperature below 0, no beam, beams that are drawn, an empty stop string.
    """

    max_new_tokens: int
    temperature: float
    seed: int
    num_beams: int = 1
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens (={self.max_new_tokens}) must be at least 1")
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"temperature (={self.temperature}) must be 0 or more; 0 is greedy")
        if self.num_beams < 1:
            raise UsageError(f"num_beams (={self.num_beams}) must be at least 1")
        if self.num_beams > 1 and self.temperature:
            raise UsageError(
                f"beams are greedy, but temperature is {self.temperature}",
                fix="temperature 0, or num_beams 1",
            )
        if not all(self.stop):
            raise UsageError("a stop string is empty")


class Draw(LogitsProcessor):  # type: ignore[misc]  # transformers comes without types here
    """Leaves each row one token, drawn by a generator of its own, so that no other row or thread matters."""

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self.temperature = temperature
        self.seeds = tuple(seeds)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(
        self, input_ids: Int64[Tensor, "b s"], scores: Float[Tensor, "b vocabulary"]
    ) -> Float[Tensor, "b vocabulary"]:
        likely = (scores.float() / self.temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
        drawn = [torch.rand(1, dtype=torch.float64, generator=g) for g in self.generators]
        at = torch.stack(drawn).to(likely.device) * likely[:, -1:]
        token = torch.searchsorted(likely, at, right=True).clamp_max(scores.shape[-1] - 1)
        return torch.full_like(scores, -math.inf).scatter(-1, token, 0)


def eos_ids(hf: PreTrainedModel) -> list[int]:
    """The ids that end a text, by the model's settings for generation."""
    found = hf.generation_config.eos_token_id
    return [] if found is None else found if isinstance(found, list) else [found]


class Ends(StoppingCriteria):  # type: ignore[misc]  # transformers comes without types here
    """Where each row ends: at EOS, at a stop string, or wherever it is when somebody says stop."""

    def __init__(self, lm: LanguageModel, rows: int, stop: Sequence[str], stopped: Event) -> None:
        ids = eos_ids(lm.hf)
        # under this name transformers finds it and writes padding behind what has ended
        self.eos_token_id = torch.tensor(ids, dtype=torch.int64, device=lm.device)
        self.stop = tuple(stop)
        self.strings = StopStringCriteria(lm.tokenizer, list(stop)) if stop else None
        self.stopped = stopped
        self.done = torch.zeros(rows, dtype=torch.bool, device=lm.device)
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=lm.device)
        """New tokens of each row, the one that ended it too."""

    def __call__(
        self, input_ids: Int64[Tensor, "b s"], scores: Any, **kwargs: Any
    ) -> Bool[Tensor, " b"]:
        over = torch.isin(input_ids[:, -1], self.eos_token_id)
        if self.strings is not None:
            over |= self.strings(input_ids, scores)
        if self.stopped.is_set():
            over |= True
        if len(over) == len(self.done):
            self.lengths += ~self.done
            self.done = self.done | over
        return over
