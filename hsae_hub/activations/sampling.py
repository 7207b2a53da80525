"""Text that the language model itself writes, as contexts of tokens."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from hsae_hub.activations.decoding import light_attention
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel, model_lock

BATCH = 64
"""Contexts that are sampled side by side."""


@torch.no_grad()
def sample_contexts(
    lm: LanguageModel,
    n_tokens: int,
    *,
    context_length: int,
    temperature: float,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Int32[Tensor, " _"]]:
    """Contexts without their BOS, of at most `context_length - 1` tokens and `n_tokens` together; EOS ends a context.

    The model is read with a key-value cache. The same seed gives the same text on the same machine.

    Raises:
        UsageError: the tokenizer has no BOS to start from, or contexts would be empty.
    """
    eos = lm.tokenizer.eos_token_id
    if lm.tokenizer.bos_token_id is None:
        raise UsageError(
            f"cannot sample text from {lm.id}",
            why="its tokenizer has no BOS token to start from",
            fix="use text files or a data set instead",
        )
    generator = torch.Generator().manual_seed(seed)
    contexts: list[Tensor] = []
    missing = n_tokens

    def tell(written: int) -> None:
        if on_progress:
            on_progress(min(n_tokens - missing + written, n_tokens), n_tokens)

    while missing > 0:
        before = missing
        rows = min(BATCH, math.ceil(missing / (context_length - 1)))
        batch = _sample_batch(lm, rows, context_length - 1, temperature, generator, tell)
        for row in batch:
            row = row[: int((row == eos).int().argmax())] if (row == eos).any() else row
            row = row[:missing]
            missing -= len(row)
            if len(row):
                contexts.append(row.int())
        if missing == before:
            raise UsageError(f"{lm.id} ends every text at once: {rows} contexts began with EOS")
    return contexts


def _sample_batch(
    lm: LanguageModel,
    rows: int,
    length: int,
    temperature: float,
    generator: torch.Generator,
    tell: Callable[[int], None],
) -> Int64[Tensor, "rows length"]:
    tokens = torch.full((rows, 1), lm.tokenizer.bos_token_id, device=lm.device)
    written: list[Tensor] = []
    cache = None
    with model_lock(lm.hf), light_attention(lm.hf):
        for _ in range(length):
            output = lm.hf(input_ids=tokens, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            tokens = _draw(output.logits[:, -1].float() / temperature, generator)
            written.append(tokens)
            tell(rows * len(written))
    return torch.cat(written, 1).cpu()


def _draw(
    logits: Float[Tensor, "rows vocabulary"], generator: torch.Generator
) -> Int64[Tensor, "rows 1"]:
    # inverse of the cumulative distribution: one random number a token, where torch.multinomial draws one a word
    cumulative = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
    at = torch.rand(len(logits), 1, dtype=torch.float64, generator=generator).to(logits.device)
    drawn = torch.searchsorted(cumulative, at * cumulative[:, -1:], right=True)
    return drawn.clamp_max(logits.shape[-1] - 1)
