"""Contexts of tokens: what becomes of a document, and of text that the model writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal
from zlib import crc32

import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from hsae_hub.activations.sampling import sample_contexts
from hsae_hub.models import LanguageModel
from hsae_hub.recipes import DataConfig, DataSource

OnProgress = Callable[[Literal["sample", "fill", "count"], int, int], None]
"""Told what is being prepared, how much of it is done, and of how much."""


def tokenise(lm: LanguageModel, texts: list[str], data: DataConfig) -> list[Int32[Tensor, " _"]]:
    """The contexts of documents, without their BOS: consecutive pieces of each, the last one shorter."""
    if not texts:
        return []
    length = body_length(lm, data)
    rows = lm.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    pieces = []
    for row in rows:
        tokens = torch.tensor(row if data.windows == "all" else row[:length], dtype=torch.int32)
        pieces += [tokens[at : at + length] for at in range(0, len(tokens), length)]
    return pieces


def body_length(lm: LanguageModel, data: DataConfig) -> int:
    """Tokens of a context beside its BOS."""
    return data.context_length - len(bos_of(lm, data))


def bos_of(lm: LanguageModel, data: DataConfig) -> list[int]:
    """What every context begins with: BOS, where it is wanted and the tokenizer has one."""
    bos = lm.tokenizer.bos_token_id
    return [bos] if data.bos and bos is not None else []


def with_bos(
    piece: Int32[Tensor, " _"], lm: LanguageModel, data: DataConfig
) -> Int64[Tensor, " _"]:
    """A context as the language model reads it."""
    return torch.cat([torch.tensor(bos_of(lm, data), dtype=torch.int64), piece.long()])


def sampled(
    source: DataSource,
    n_tokens: int,
    seed: str,
    lm: LanguageModel,
    data: DataConfig,
    on_progress: OnProgress | None,
) -> list[Int32[Tensor, " _"]]:
    """The contexts of a `sample` source, without their BOS; `seed` names the use that is made of it."""
    return sample_contexts(
        lm,
        n_tokens,
        context_length=data.context_length,
        temperature=source.temperature,
        seed=crc32(seed.encode()),
        on_progress=(lambda done, total: on_progress("sample", done, total))
        if on_progress
        else None,
    )
