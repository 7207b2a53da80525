"""Attention for reading one token at a time: grouped queries without copies of their keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

_NAME = "hsae_grouped"


@contextmanager
def light_attention(hf: nn.Module) -> Iterator[None]:
    """Inside it a Gemma-2 with eager attention attends without a copy of keys and values for each query head.

    With a cache these copies are half of a small model's time; logits agree to rounding. Other models are left alone.
    """
    config: Any = hf.config
    if config.model_type != "gemma2" or config._attn_implementation != "eager":
        yield
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(_NAME, _grouped_attention)
    AttentionMaskInterface.register(_NAME, eager_mask)
    model: Any = hf
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation("eager")


def _grouped_attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch groups keys width"],
    value: Float[Tensor, "batch groups keys width"],
    attention_mask: Float[Tensor, "batch 1 queries keys"] | None,
    scaling: float,
    softcap: float | None = None,
    **unused: Any,  # transformers passes everything that any attention may want
) -> tuple[Float[Tensor, "batch queries heads width"], None]:
    batch, heads, queries, width = query.shape
    groups = key.shape[1]
    scores = (query * scaling).reshape(batch, groups, -1, width) @ key.mT
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    scores = scores.view(batch, heads, queries, -1)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.float().softmax(-1).to(query.dtype)
    read = weights.view(batch, groups, -1, weights.shape[-1]) @ value
    return read.view(batch, heads, queries, width).transpose(1, 2), None
