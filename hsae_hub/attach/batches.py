"""Texts as batches of tokens, padded on the left so that the last token of every row can be continued."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel, positions

LOGITS_LIMIT = 1 << 27
"""Most logits that a batch may have: 512 MB in float32."""


class Reading(NamedTuple):
    """What a language model reads in one forward: the last `s` of the `n` tokens that every row has so far."""

    ids: Int64[Tensor, "b n"]
    """All tokens so far, padding included; what is generated is appended."""
    mask: Bool[Tensor, "b n"]
    """False on padding."""
    ordinary: Bool[Tensor, "b s"]
    """Where a token that is read now is neither padding nor special (BOS, EOS …): only these are ever changed."""
    prompt: int
    """Columns of the prompt, padding included; the later ones were generated."""

    @property
    def step(self) -> int:
        """How many tokens of a row were generated before: 0 in a single forward and where the prompt is read."""
        return self.ids.shape[1] - self.prompt

    @property
    def positions(self) -> Int64[Tensor, "b s"]:
        """Position within its own text of each token that is read now, 0 its first; 0 on padding too."""
        return positions(self.mask.long())[:, -self.ordinary.shape[1] :]

    @property
    def generated(self) -> Bool[Tensor, " s"]:
        """Which columns of those that are read now were generated."""
        n, s = self.ids.shape[1], self.ordinary.shape[1]
        return torch.arange(n - s, n, device=self.ids.device) >= self.prompt

    def to(self, device: torch.device) -> Reading:
        """The same on another device."""
        if device == self.ids.device:
            return self
        return Reading(
            self.ids.to(device), self.mask.to(device), self.ordinary.to(device), self.prompt
        )


class TokenBatch(NamedTuple):
    """Token ids on the model's device."""

    ids: Int64[Tensor, "b s"]
    mask: Int64[Tensor, "b s"]
    """1 on tokens, 0 on padding."""


def encode_texts(lm: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, with the special tokens that the tokenizer adds, such as BOS.

    Raises:
        UsageError: there is no text, one has no token, or one is longer than the model can read.
    """
    if not texts:
        raise UsageError("no text was given")
    return [encode_text(lm, text, number) for number, text in enumerate(texts)]


def encode_text(lm: LanguageModel, text: str, number: int) -> list[int]:
    """Token ids of one text; `number` is what an error calls it.

    Raises:
        UsageError: it has no token, or is longer than the model can read.
    """
    row = [int(i) for i in lm.tokenizer(text, verbose=False)["input_ids"]]
    if not row:
        raise UsageError(f"text {number} has no token, and the tokenizer adds none")
    check_length(lm, len(row), f"text {number}")
    return row


def check_length(lm: LanguageModel, length: int, what: str) -> None:
    """Raises UsageError when a model cannot read so many tokens."""
    if lm.max_tokens is not None and length > lm.max_tokens:
        raise UsageError(f"{what} has {length} tokens; {lm.id} reads at most {lm.max_tokens}")


def pad_left(lm: LanguageModel, rows: Sequence[Sequence[int]]) -> TokenBatch:
    """Rows of ids as one batch."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id(lm))
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    return TokenBatch(ids.to(lm.device), mask.to(lm.device))


def pad_id(lm: LanguageModel) -> int:
    """The id that padding has; a tokenizer without one of its own pads with another special token."""
    tokenizer = lm.tokenizer
    known = [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, 0]
    return int(next(i for i in known if i is not None))


def in_batches(lm: LanguageModel, rows: Sequence[Sequence[int]]) -> Iterator[TokenBatch]:
    """Batches of consecutive rows whose logits fit into memory, at most 16 rows each."""
    vocabulary = int(lm.hf.config.get_text_config().vocab_size)
    batch: list[Sequence[int]] = []
    for row in rows:
        width = max(len(r) for r in [*batch, row])
        if batch and (len(batch) == 16 or (len(batch) + 1) * width * vocabulary > LOGITS_LIMIT):
            yield pad_left(lm, batch)
            batch = []
        batch.append(row)
    yield pad_left(lm, batch)


def ordinary_tokens(lm: LanguageModel, batch: TokenBatch) -> Bool[Tensor, "b s"]:
    """Where a batch that is read in one forward has tokens that are not special."""
    width = batch.ids.shape[1]
    return read_now(batch.ids, batch.mask.bool(), width, width, lm.special).ordinary


def read_now(
    ids: Int64[Tensor, "b n"],
    mask: Bool[Tensor, "b n"],
    read: int,
    prompt: int,
    special: Int64[Tensor, " special"],
) -> Reading:
    """Of all tokens so far the last `read` are read now; padding and the special ids among them are not ordinary."""
    now = ids[:, -read:]
    ordinary = mask[:, -read:] & ~torch.isin(now, special.to(ids.device))
    return Reading(ids, mask, ordinary, prompt)
