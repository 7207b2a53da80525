"""Contexts to measure on, which training never sees."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from jaxtyping import Int32, Int64
from torch import Tensor

from hsae_hub.activations.contexts import OnProgress, sampled, tokenise, with_bos
from hsae_hub.activations.sources import digest, documents, fits_in_memory, is_heldout
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel
from hsae_hub.recipes import DataConfig, DataSource

_CHUNK = 64  # documents that are tokenised together


def heldout_windows(
    data: DataConfig,
    lm: LanguageModel,
    *,
    tokens: int,
    sample_seed: int,
    on_progress: OnProgress | None = None,
) -> list[Int64[Tensor, " _"]]:
    """Contexts that training never sees, from all sources in turn, until they hold `tokens` tokens beside BOS.

    There may be fewer. They come from `data.heldout`, else from the documents that a hash of their text holds out; text
    that the model samples is drawn apart, from another seed.

    Raises:
        UsageError: no text is held out.
    """
    sources = data.heldout or data.train
    fraction = 1.0 if data.heldout else data.heldout_fraction
    turns = [
        _heldout_pieces(
            source, f"{sample_seed}/heldout/{i}", fraction, lm, data, tokens, on_progress
        )
        for i, source in enumerate(sources)
    ]
    contexts: list[Tensor] = []
    total = 0
    while turns and total < tokens:
        pieces = [(turn, next(turn, None)) for turn in turns]
        turns = [turn for turn, piece in pieces if piece is not None]
        for _, piece in pieces:
            if piece is not None and total < tokens:
                total += len(piece)
                contexts.append(with_bos(piece, lm, data))
    if not contexts:
        raise UsageError(
            f"no text is held out: {data.heldout_fraction:g} of the training documents are none",
            fix="give more text, a larger data.heldout_fraction, or data.heldout",
        )
    return contexts


def _heldout_pieces(
    source: DataSource,
    seed: str,
    fraction: float,
    lm: LanguageModel,
    data: DataConfig,
    tokens: int,
    on_progress: OnProgress | None,
) -> Iterator[Int32[Tensor, " _"]]:
    if source.sample is not None:
        wanted = min(tokens, max(1, round(source.sample * fraction)))
        yield from sampled(source, wanted, seed, lm, data, on_progress)
        return
    texts: Iterator[str] = filter(lambda text: is_heldout(text, fraction), documents(source))
    if fits_in_memory(source):
        texts = iter(sorted(texts, key=digest))  # not only the first files
    while chunk := list(islice(texts, _CHUNK)):
        yield from tokenise(lm, chunk, data)
