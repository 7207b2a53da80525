"""The first-letter task: words of a tokenizer's vocabulary, and prompts that ask for their first letter."""

from __future__ import annotations

import re
import string
from typing import NamedTuple

import numpy as np

from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel

LETTERS = string.ascii_lowercase
EXAMPLES = 10
TEMPLATE = "{word} has the first letter:"
"""As in SAEBench; an example is followed by its letter, in upper case, and a new line."""


class Word(NamedTuple):
    """A word in its prompt."""

    text: str
    letter: int
    """0 to 25."""
    ids: list[int]
    """Of the prompt up to the end of the word: nothing after it can change what is read there."""


def vocabulary_words(lm: LanguageModel) -> list[str]:
    """Tokens made of English letters, with the blank before them where there is one, in a fixed order."""
    tokenizer = lm.tokenizer
    texts = (tokenizer.convert_tokens_to_string([token]) for token in tokenizer.get_vocab())
    return sorted({text for text in texts if re.fullmatch(" ?[A-Za-z]+", text)})


def first_letter_words(lm: LanguageModel, *, limit: int, seed: int) -> list[Word]:
    """At most `limit` words, drawn by the seed, each after ten examples that are drawn too and never hold the word.

    Raises:
        UsageError: the vocabulary has too few words.
    """
    rng = np.random.default_rng(seed)
    known = vocabulary_words(lm)
    if len(known) <= EXAMPLES:
        raise UsageError(
            f"the vocabulary of {lm.id} has {len(known)} English words; absorption needs more"
        )
    chosen = [known[i] for i in rng.permutation(len(known))[:limit]]
    words = []
    for text in chosen:
        drawn = [known[i] for i in rng.choice(len(known), EXAMPLES + 1, replace=False)]
        shots = [each for each in drawn if each != text][:EXAMPLES]
        examples = "".join(f"{TEMPLATE.format(word=each)} {_letter(each)}\n" for each in shots)
        ids = lm.tokenizer("\n" + examples + text, verbose=False)["input_ids"]
        words.append(Word(text, LETTERS.index(_letter(text).lower()), [int(i) for i in ids]))
    return words


def _letter(word: str) -> str:
    return word.strip()[0].upper()
