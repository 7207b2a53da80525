"""The one way in which activations are read from contexts, whether they are trained on at once or stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hsae_hub.models import Hookpoint, LanguageModel, read_activations
from hsae_hub.recipes import DataConfig


class ContextBatch(NamedTuple):
    """Contexts that the language model reads together."""

    ids: Int64[Tensor, "batch longest"]
    mask: Bool[Tensor, "batch longest"]
    """Where tokens are; the rest is padding."""
    kept: Bool[Tensor, "batch longest"]
    """Tokens whose activations are wanted."""


def pad_contexts(
    contexts: Sequence[Int64[Tensor, " _"]], pad: int
) -> tuple[Int64[Tensor, "batch longest"], Bool[Tensor, "batch longest"]]:
    """Contexts as one batch, padded on the right, and where its tokens are."""
    lengths = torch.tensor([len(context) for context in contexts])
    ids = torch.nn.utils.rnn.pad_sequence(list(contexts), batch_first=True, padding_value=pad)
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def batch_contexts(
    contexts: Sequence[Int64[Tensor, " _"]], lm: LanguageModel, data: DataConfig
) -> ContextBatch:
    """Contexts as one batch; special tokens are not kept where the data leave them out."""
    ids, mask = pad_contexts(contexts, lm.tokenizer.pad_token_id or 0)
    if not data.skip_special:
        return ContextBatch(ids, mask, mask)
    return ContextBatch(ids, mask, mask & ~torch.isin(ids, lm.special))


def read_batch(
    lm: LanguageModel, hookpoint: Hookpoint, batch: ContextBatch
) -> Float[Tensor, "tokens d_in"]:
    """Activations of the kept tokens, context after context, on the model's device and in its type."""
    ids, mask = batch.ids.to(lm.device), batch.mask.long().to(lm.device)
    return read_activations(lm, hookpoint, ids, mask)[batch.kept.to(lm.device)]
