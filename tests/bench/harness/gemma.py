"""Gemma-2's shapes with random weights."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from hsae_hub.models import LanguageModel

WIDTHS_2B: dict[str, Any] = {
    "hidden_size": 2304,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "intermediate_size": 9216,
    "query_pre_attn_scalar": 256,
}
"""Those of google/gemma-2-2b's config.json, as published; it has 26 layers and 256,000 tokens."""
NARROW: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 256,
    "query_pre_attn_scalar": 32,
}


def gemma(
    widths: dict[str, Any],
    *,
    layers: int,
    vocabulary: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Gemma2ForCausalLM:
    """A Gemma-2 of these widths."""
    config = Gemma2Config(
        **widths,
        vocab_size=vocabulary,
        num_hidden_layers=layers,
        sliding_window=4096,
        final_logit_softcapping=30.0,
        attn_logit_softcapping=50.0,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(dtype)
        try:
            return Gemma2ForCausalLM(config)
        finally:
            torch.set_default_dtype(torch.float32)


def untouched(lm: LanguageModel) -> LanguageModel:
    """The same model, to which nothing was ever attached; it shares the weights."""
    shared = {id(tensor): tensor for tensor in (*lm.hf.parameters(), *lm.hf.buffers())}
    return replace(lm, hf=deepcopy(lm.hf, shared))
