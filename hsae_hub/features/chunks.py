"""One batch of contexts as the index counts it: the acts of its tokens, latent by latent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from hsae_hub.activations import ContextBatch
from hsae_hub.architectures import Acts

AHEAD, BEHIND = 20, 11
"""Tokens of a context that are kept before and after the one where a latent acts."""
WIDTH = AHEAD + 1 + BEHIND
NO_TOKEN = -1
"""Where a kept context has no token: before its beginning, after its end, or a special one."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Chunk(NamedTuple):
    """The acts of some contexts, sorted by latent and, of one latent, by place in the text."""

    ids: Int64[np.ndarray, "contexts longest"]
    """Token ids; `NO_TOKEN` for padding and tokens that were left out."""
    first: int
    """Number of the first context in the corpus."""
    latents: Ints
    places: Ints
    """Place of an act: context in the batch times `longest` plus position."""
    acts: Floats
    relative: Floats
    """Act / ‖x‖."""
    tokens: Ints
    """Places of all tokens that were read, those without an act too."""

    def windows(self, places: Ints) -> NDArray[np.int32]:
        """The tokens around each place, `WIDTH` of them; the place itself is number `AHEAD`."""
        at, inside = self.around(places)
        return np.where(inside, self.ids.reshape(-1)[at], NO_TOKEN).astype(np.int32)

    def acts_around(self, latents: Ints, places: Ints) -> NDArray[np.float16]:
        """Acts of a latent on the tokens around a place where it acts, as multiples of the act there."""
        at, inside = self.around(places)
        keys = self.latents * self.ids.size + self.places
        wanted = latents[:, None] * self.ids.size + at
        slot = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        found = np.where(inside & (keys[slot] == wanted), self.acts[slot], 0)
        return (found / found[:, AHEAD, None]).astype(np.float16)

    def around(self, places: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """The places around each place, and whether they are inside its context."""
        longest = self.ids.shape[1]
        context, position = np.divmod(places[:, None], longest)
        position = position + np.arange(-AHEAD, BEHIND + 1)
        inside = (position >= 0) & (position < longest)
        return context * longest + position.clip(0, longest - 1), inside


class Peaks(NamedTuple):
    """The strongest act of each latent in each context where it is positive."""

    latents: Ints
    contexts: Ints
    """Numbers in the corpus."""
    places: Ints
    acts: Floats


def make_chunk(
    batch: ContextBatch, acts: Acts, norms: Float[Tensor, " tokens"], first: int
) -> Chunk:
    """Sorts the acts of the kept tokens of some contexts; `norms` are ‖x‖ of these tokens."""
    ids = torch.where(batch.kept, batch.ids, NO_TOKEN).numpy()
    tokens = np.flatnonzero(batch.kept.numpy())
    values = acts.values.float().cpu().numpy()
    rows, slots = np.nonzero(values)
    latents = acts.indices.cpu().numpy()[rows, slots]
    order = np.argsort(latents * ids.size + tokens[rows], kind="stable")
    rows, latents = rows[order], latents[order]
    found = values[rows, slots[order]]
    size = norms.float().cpu().numpy()[rows]
    relative: Floats = (found / np.where(size == 0, 1, size)).astype(np.float32)
    return Chunk(ids, first, latents, tokens[rows], found, relative, tokens)


def peaks(chunk: Chunk) -> Peaks:
    """Of each latent and context one act: the strongest, the earlier one of two that are equal."""
    positive = chunk.acts > 0
    latents, places = chunk.latents[positive], chunk.places[positive]
    acts = chunk.acts[positive]
    if not len(latents):
        return Peaks(latents, latents, places, acts)
    longest = chunk.ids.shape[1]
    contexts = places // longest
    begins = np.flatnonzero(
        np.diff(latents, prepend=-1).astype(bool) | np.diff(contexts, prepend=-1).astype(bool)
    )
    highest = np.maximum.reduceat(acts, begins)
    sizes = np.diff(begins, append=len(acts))
    here = np.where(acts == np.repeat(highest, sizes), np.arange(len(acts)), len(acts))
    at = np.minimum.reduceat(here, begins)
    return Peaks(latents[at], contexts[at] + chunk.first, places[at], acts[at])


def random_ranks(seed: int, first: Ints, second: Ints) -> NDArray[np.float64]:
    """A number from 0 to 1 for each pair of numbers, the same in every run: those with the smallest are a sample.

    Steele et al. 2014's SplitMix64 as a hash.
    """
    with np.errstate(over="ignore"):
        state = np.full(len(first), seed, dtype=np.uint64)
        for part in (first, second):
            state = _mixed((state ^ part.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15))
    return (state >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
