"""Text that the language model writes."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import NamedTuple

from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from hsae_hub.attach.batches import TokenBatch, check_length, pad_id, pad_left
from hsae_hub.attach.engine import Engine
from hsae_hub.attach.prompts import Prompt, encode_prompts
from hsae_hub.attach.running import Placed
from hsae_hub.attach.writing import Draw, Ends, Writing
from hsae_hub.models import LanguageModel


class Prepared(NamedTuple):
    """Prompts that are ready to be continued."""

    batch: TokenBatch
    config: GenerationConfig
    ends: Ends


def prepare(
    lm: LanguageModel, rows: Sequence[Sequence[int]], writing: Writing, stopped: Event
) -> Prepared:
    """A batch of prompts with everything that `generate` takes.

    Raises:
        UsageError: prompt and continuation are longer than the model can read.
    """
    batch = pad_left(lm, rows)
    check_length(lm, batch.ids.shape[1] + writing.max_new_tokens, "prompt and continuation")
    config = greedy(lm, writing.max_new_tokens, writing.num_beams)
    return Prepared(batch, config, Ends(lm, len(rows), writing.stop, stopped))


def greedy(lm: LanguageModel, max_new_tokens: int, num_beams: int = 1) -> GenerationConfig:
    """Settings that take the likeliest token, whatever the model's own say."""
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=num_beams,
        # a model's own settings for sampling are not in force here, and transformers would say so
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        pad_token_id=pad_id(lm),
    )


def continue_texts(
    engine: Engine, prompts: Sequence[Prompt], placed: Sequence[Placed], writing: Writing
) -> list[str]:
    """What the model writes after each prompt, the prompt left out; row `i` is drawn with seed `seed + i`.

    Raises:
        UsageError: no prompt, one without a token, a chat without a template, or more tokens than the model can read.
    """
    batch, config, ends = prepare(engine.lm, encode_prompts(engine.lm, prompts), writing, Event())
    seeds = [writing.seed + row for row in range(len(prompts))]
    draw = [Draw(writing.temperature, seeds)] if writing.temperature else []
    ids = engine.generate(
        batch,
        config,
        placed,
        processors=LogitsProcessorList(draw),
        stopping=StoppingCriteriaList([ends] if writing.stop else []),
    )
    start = batch.ids.shape[1]
    return [
        text_after(engine.lm, row[:start][kept.bool()].tolist(), row[start:].tolist())
        for row, kept in zip(ids, batch.mask, strict=True)
    ]


def text_after(lm: LanguageModel, prompt: Sequence[int], new: Sequence[int]) -> str:
    """The text of new tokens behind a prompt, special tokens left out."""
    # some tokenizers drop the blank before the first word, so the text is cut out of the whole
    before, whole = (
        lm.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for ids in ([*prompt], [*prompt, *new])
    )
    if whole.startswith(before):
        return str(whole[len(before) :])
    return str(lm.tokenizer.decode(new, skip_special_tokens=True))
