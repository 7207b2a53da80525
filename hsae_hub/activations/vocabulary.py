"""Which rows of an embedding are read: those of tokens that are frequent enough (Muchane et al. 2025, appendix B.1)."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from hsae_hub.activations.contexts import OnProgress
from hsae_hub.activations.sources import is_heldout
from hsae_hub.activations.windows import WindowStream
from hsae_hub.artifact import VocabularyConfig
from hsae_hub.errors import UsageError
from hsae_hub.models import Hookpoint, LanguageModel
from hsae_hub.recipes import DataConfig, VocabularySection

_UNUSED = re.compile(r"[<\[]unused_?\d+[>\]]")  # Gemma's <unused7>, BERT's [unused7]
_CONTEXTS = 256  # taken from the text at once


class Vocabulary(NamedTuple):
    """Rows by their token ids, ascending."""

    trained: Int64[Tensor, " trained"]
    heldout: Int64[Tensor, " heldout"]
    """Never trained on, whatever the seed: a hash of its text holds a token out."""
    config: VocabularyConfig


def choose_rows(
    lm: LanguageModel,
    hookpoint: Hookpoint,
    data: DataConfig,
    *,
    sample_seed: int,
    on_progress: OnProgress | None = None,
) -> Vocabulary:
    """The rows of tokens that are neither special nor unused, and frequent enough in the training text.

    Raises:
        MisfitError: the hookpoint is no embedding's weight.
        UsageError: there is no text to count in, or no token is left.
    """
    total = len(hookpoint.rows(lm))
    wanted = data.vocabulary or VocabularySection()
    pieces = {i: piece for piece, i in lm.tokenizer.get_vocab().items() if i < total}
    counts = torch.zeros(total, dtype=torch.int64)
    if wanted.min_count:
        counts = _count(lm, data, wanted.count_tokens, total, sample_seed, on_progress)
    kept = [
        i
        for i, piece in sorted(pieces.items())
        if i not in lm.special_ids
        and not _UNUSED.fullmatch(piece)
        and counts[i] >= wanted.min_count
    ]
    heldout = [i for i in kept if is_heldout(pieces[i], data.heldout_fraction)]
    trained = sorted(set(kept) - set(heldout))
    if not trained:
        raise UsageError(
            f"no row of {hookpoint} is left to train on",
            why=f"no token occurs {wanted.min_count} times in {int(counts.sum()):,} tokens of text",
            fix="give more text, or --set data.vocabulary.min_count=0",
        )
    return Vocabulary(
        torch.tensor(trained),
        torch.tensor(heldout, dtype=torch.int64),
        VocabularyConfig(
            total=total,
            trained=len(trained),
            heldout=len(heldout),
            heldout_fraction=data.heldout_fraction,
            min_count=wanted.min_count,
            counted_tokens=int(counts.sum()),
        ),
    )


def describe_rows(config: VocabularyConfig, hookpoint: str, *, heldout: bool) -> str:
    """In one line, the rows that are held out or the ones that are trained on."""
    if config.min_count:
        times = "once" if config.min_count == 1 else f"{config.min_count} times"
        which = f"tokens that occur at least {times} in {config.counted_tokens:,} tokens of text"
    else:
        which = "all tokens but special and unused ones"
    if heldout:
        return (
            f"{config.heldout:,} rows of {hookpoint}, held out by a hash of their tokens: {which}"
        )
    return (
        f"{config.trained:,} of the {config.total:,} rows of {hookpoint}: {which}, "
        f"but for {config.heldout:,} held out"
    )


def _count(
    lm: LanguageModel,
    data: DataConfig,
    limit: int,
    total: int,
    sample_seed: int,
    on_progress: OnProgress | None,
) -> Int64[Tensor, " total"]:
    # seed 0: the order of training's batches has no say in which rows there are
    text = WindowStream(data, lm, seed=0, sample_seed=sample_seed, on_progress=on_progress)
    counts = torch.zeros(total, dtype=torch.int64)
    while (seen := int(counts.sum())) < limit and (contexts := text.take(_CONTEXTS)):
        if on_progress:
            on_progress("count", seen, limit)
        counts += torch.bincount(torch.cat(contexts), minlength=total)
        counts[lm.special] = 0
    return counts
