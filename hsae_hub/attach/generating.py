"""Text that the language model writes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from hsae_hub.attach.batches import check_length, encode_texts, pad_id, pad_left
from hsae_hub.attach.engine import Engine
from hsae_hub.attach.running import Placed
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel


class _Draw(LogitsProcessor):  # type: ignore[misc]  # transformers comes without types here
    """Leaves each row one token, drawn by a generator of its own, so that no other row or thread matters."""

    def __init__(self, temperature: float, seed: int, rows: int) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(seed + row) for row in range(rows)]

    def __call__(
        self, input_ids: Int64[Tensor, "b s"], scores: Float[Tensor, "b vocabulary"]
    ) -> Float[Tensor, "b vocabulary"]:
        likely = (scores.float() / self.temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
        drawn = [torch.rand(1, dtype=torch.float64, generator=g) for g in self.generators]
        at = torch.stack(drawn).to(likely.device) * likely[:, -1:]
        token = torch.searchsorted(likely, at, right=True).clamp_max(scores.shape[-1] - 1)
        return torch.full_like(scores, -math.inf).scatter(-1, token, 0)


def continue_texts(
    engine: Engine,
    prompts: Sequence[str],
    placed: Sequence[Placed],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[str]:
    """What the model writes after each prompt, the prompt left out; row `i` is drawn with seed `seed + i`.

    Raises:
        UsageError: no new tokens, a temperature below 0, or more tokens than the model can read.
    """
    lm = engine.lm
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens (={max_new_tokens}) must be at least 1")
    if not 0 <= temperature < math.inf:
        raise UsageError(f"temperature (={temperature}) must be 0 or more; 0 is greedy")
    batch = pad_left(lm, encode_texts(lm, prompts))
    check_length(lm, batch.ids.shape[1] + max_new_tokens, "prompt and continuation")
    config = greedy(lm, max_new_tokens)
    draw = [_Draw(temperature, seed, len(prompts))] if temperature else []
    ids = engine.generate(batch, config, placed, processors=LogitsProcessorList(draw))
    start = batch.ids.shape[1]
    return [
        _after(engine, row[:start][kept.bool()], row[start:])
        for row, kept in zip(ids, batch.mask, strict=True)
    ]


def greedy(lm: LanguageModel, max_new_tokens: int) -> GenerationConfig:
    """Settings that take the likeliest token, whatever the model's own say."""
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        # a model's own settings for sampling are not in force here, and transformers would say so
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        pad_token_id=pad_id(lm),
    )


def _after(engine: Engine, prompt: Int64[Tensor, " s"], new: Int64[Tensor, " n"]) -> str:
    # some tokenizers drop the blank before the first word, so the text is cut out of the whole
    before, whole = (
        engine.lm.tokenizer.decode(
            ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        for ids in (prompt, torch.cat([prompt, new]))
    )
    if whole.startswith(before):
        return str(whole[len(before) :])
    return str(engine.lm.tokenizer.decode(new.tolist(), skip_special_tokens=True))
