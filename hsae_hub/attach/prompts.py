"""What a user asks a model to continue: texts, or chats in the model's own template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from hsae_hub.attach.batches import check_length, encode_text
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel

Chat = Sequence[Mapping[str, Any]]
"""Messages such as `{"role": "user", "content": "What is a corgi?"}`."""
Prompt = str | Chat


def as_strings(given: Sequence[str]) -> tuple[str, ...]:
    """One string, or several, as several."""
    return (given,) if isinstance(given, str) else tuple(given)


def is_one(prompt: Any) -> bool:
    """Whether it is a single text or chat, and not several."""
    return isinstance(prompt, str) or (len(prompt) > 0 and isinstance(prompt[0], Mapping))


def encode_prompts(lm: LanguageModel, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of each text, with BOS where the tokenizer adds it, and of each chat, up to where the model answers.

    Raises:
        UsageError: there is none, one has no token or is longer than the model can read, or there is no template.
    """
    if not prompts:
        raise UsageError("no text was given")
    return [
        encode_text(lm, prompt, number) if isinstance(prompt, str) else _encode_chat(lm, prompt)
        for number, prompt in enumerate(prompts)
    ]


def _encode_chat(lm: LanguageModel, chat: Chat) -> list[int]:
    tokenizer = lm.tokenizer
    if tokenizer.chat_template is None:
        raise UsageError(
            f"{lm.id} has no chat template", why="it was not trained to chat", fix="give a text"
        )
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in chat], add_generation_prompt=True, tokenize=False
        )
    except (TemplateError, KeyError, TypeError) as error:  # whatever a template makes of it
        raise UsageError(f"the chat does not fit the template of {lm.id}: {error}") from None
    # the template writes BOS itself
    ids = [int(i) for i in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
    check_length(lm, len(ids), "the chat")
    return ids
