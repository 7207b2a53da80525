"""Which tokens an edit holds on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from hsae_hub.architectures import Acts
from hsae_hub.attach.batches import Reading
from hsae_hub.attach.steering_spec import Gate
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel


@dataclass(frozen=True, eq=False)
class Where:
    """A gate of one SAE and one tokenizer; plain data, for it may be shipped to where this package is not."""

    latent: int | None = None
    """The one that must fire."""
    phrases: tuple[tuple[int, ...], ...] = ()
    """Token ids of the words that must have been read, in each of their spellings."""
    positions: tuple[int, ...] | None = None
    generated: bool | None = None
    """Whether only generated tokens are meant, or only the prompt's."""

    def __call__(self, reading: Reading, acts: Acts | None) -> Bool[Tensor, "b s"]:
        """Of the tokens that are read now those that it holds on; `acts` may be None if nothing must fire."""
        on = torch.ones_like(reading.ordinary)
        if self.latent is not None and acts is not None:
            on &= ((acts.indices == self.latent) & (acts.values != 0)).any(-1)
        if self.phrases:
            on &= torch.stack([_have_read(reading, p) for p in self.phrases]).any(0)
        if self.positions is not None:
            on &= _at(reading, self.positions)
        if self.generated is not None:
            on &= reading.generated == self.generated
        return on


def make_where(gate: Gate, latent: int | None, parent: int | None, lm: LanguageModel) -> Where:
    """A gate made ready for an edit of a latent, whose parent is None if it is one itself.

    Raises:
        UsageError: the words to come after have no tokens.
    """
    fires = parent if gate.fires == "parent" and parent is not None else latent
    phrases: tuple[tuple[int, ...], ...] = ()
    if gate.after is not None:
        spellings = {gate.after, " " + gate.after.lstrip()}
        found = {_ids(lm, words) for words in spellings}
        phrases = tuple(sorted(found - {()}))
        if not phrases:
            raise UsageError(f"gate.after (={gate.after!r}) has no token")
    generated = None if gate.part is None else gate.part == "generated"
    return Where(fires if gate.fires is not None else None, phrases, gate.positions, generated)


def _ids(lm: LanguageModel, words: str) -> tuple[int, ...]:
    found = lm.tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
    return tuple(int(i) for i in found)


def _have_read(reading: Reading, phrase: tuple[int, ...]) -> Bool[Tensor, "b s"]:
    ids, mask, read = reading.ids, reading.mask, reading.ordinary.shape[1]
    length = len(phrase)
    ends = torch.zeros_like(mask)
    if length <= ids.shape[1]:
        wanted = torch.tensor(phrase, device=ids.device)
        found = (ids.unfold(1, length, 1) == wanted) & mask.unfold(1, length, 1)
        ends[:, length - 1 :] = found.all(-1)
    return ends.cumsum(-1)[:, -read:] > 0


def _at(reading: Reading, positions: tuple[int, ...]) -> Bool[Tensor, "b s"]:
    given = torch.tensor(positions, device=reading.ids.device)
    prompt = reading.mask[:, : reading.prompt].sum(-1, keepdim=True)
    wanted = torch.where(given < 0, prompt + given, given)
    return (reading.positions[..., None] == wanted[:, None, :]).any(-1)
