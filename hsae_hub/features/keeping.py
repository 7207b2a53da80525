"""Keeps of every latent the few contexts that rank first, whatever the length of the corpus.

Only latents with a context that ranks before their last kept one are touched, and all of them at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hsae_hub.features.chunks import NO_TOKEN, WIDTH, Chunk, Floats, Ints, Peaks

Arrays = dict[str, NDArray[np.generic]]


class KeptContexts:
    """Of each latent up to `size` contexts with the smallest ranks, in order; of equal ranks the earlier context.

    Rows of latents that never acted are never written, so the system gives them no memory.
    """

    def __init__(self, d_sae: int, size: int) -> None:
        self.size = size
        self.ranks = np.zeros((d_sae, size), dtype=np.float64)
        self.acts = np.zeros((d_sae, size), dtype=np.float32)
        self.contexts = np.zeros((d_sae, size), dtype=np.int64)
        self.positions = np.zeros((d_sae, size), dtype=np.int32)
        self.ids = np.zeros((d_sae, size, WIDTH), dtype=np.int32)
        self.around = np.zeros((d_sae, size, WIDTH), dtype=np.float16)
        self.counts = np.zeros(d_sae, dtype=np.int32)

    def add(self, chunk: Chunk, found: Peaks, ranks: NDArray[np.float64]) -> None:
        """Takes in the contexts of a chunk, each with its rank."""
        full = self.counts[found.latents] == self.size
        last = np.where(full, self.ranks[found.latents, -1], np.inf)
        better = ranks < last  # equal ones come later in the corpus
        latents, places = found.latents[better], found.places[better]
        if not len(latents):
            return
        touched, row = np.unique(latents, return_inverse=True)
        old_row, old_slot = np.nonzero(np.arange(self.size) < self.counts[touched][:, None])
        old_latent = touched[old_row]
        rows = np.concatenate([old_row, row])
        contexts = np.concatenate([self.contexts[old_latent, old_slot], found.contexts[better]])
        all_ranks = np.concatenate([self.ranks[old_latent, old_slot], ranks[better]])
        order = np.lexsort((contexts, all_ranks, rows))
        begins = np.flatnonzero(np.diff(rows[order], prepend=-1))
        slots = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
        order, slots = order[slots < self.size], slots[slots < self.size]
        is_new = order >= len(old_row)
        fresh = order[is_new] - len(old_row)
        stays = order[~is_new]
        new = self._taken(chunk, latents[fresh], places[fresh])
        acts = found.acts[better][fresh]
        positions = (places % chunk.ids.shape[1])[fresh].astype(np.int32)
        target = (touched[rows[order]], slots)
        source = (old_latent[stays], old_slot[stays])
        pairs: list[tuple[NDArray[np.generic], NDArray[np.generic]]] = [
            (self.acts, acts),
            (self.positions, positions),
            (self.ids, new[0]),
            (self.around, new[1]),
        ]
        for array, values in pairs:
            merged = np.empty((len(order), *array.shape[2:]), dtype=array.dtype)
            merged[~is_new] = array[source]
            merged[is_new] = values
            array[target] = merged
        self.ranks[target] = all_ranks[order]
        self.contexts[target] = contexts[order]
        self.counts[touched] = np.bincount(rows[order], minlength=len(touched))

    def state(self, alive: Ints) -> Arrays:
        """What the latents that acted have, as arrays by name."""
        return {name: array[alive] for name, array in self._arrays().items()}

    def load(self, alive: Ints, state: Arrays) -> None:
        """Goes on from such arrays."""
        for name, array in self._arrays().items():
            array[alive] = state[name]

    def _arrays(self) -> Arrays:
        names = ("ranks", "acts", "contexts", "positions", "ids", "around", "counts")
        return {name: getattr(self, name) for name in names}

    def _taken(
        self, chunk: Chunk, latents: Ints, places: Ints
    ) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
        ids = chunk.windows(places)
        around = chunk.acts_around(latents, places)
        return ids, np.where(ids == NO_TOKEN, np.float16(0), around)


class Sample:
    """A uniform sample of tokens, or of windows, with the latents that act there: memory is that of the sample."""

    def __init__(self, size: int, width: int) -> None:
        self.size = size
        self.bound = np.inf
        """Rank that a further one has to be below."""
        self.ranks = np.zeros(0, dtype=np.float64)
        self.numbers = np.zeros(0, dtype=np.int64)
        """Numbers in the corpus, ascending."""
        self.ids = np.zeros((0, width), dtype=np.int32)
        """Token ids of each."""
        self.owners = np.zeros(0, dtype=np.int64)
        """Where each of `latents` acts, by number."""
        self.latents = np.zeros(0, dtype=np.int64)
        self.acts = np.zeros(0, dtype=np.float32)

    def add(
        self,
        numbers: Ints,
        ranks: NDArray[np.float64],
        ids: NDArray[np.int32],
        acting: tuple[Ints, Ints, Floats],
    ) -> None:
        """Takes in what follows all before it; `acting` are owners, latents and acts."""
        self.ranks = np.concatenate([self.ranks, ranks])
        self.numbers = np.concatenate([self.numbers, numbers])
        self.ids = np.concatenate([self.ids, ids])
        for name, more in zip(("owners", "latents", "acts"), acting, strict=True):
            setattr(self, name, np.concatenate([getattr(self, name), more]))
        if len(self.ranks) > self.size * 5 // 4:
            self.prune()

    def prune(self) -> None:
        """Leaves what belongs to the sample; between calls of `add` there may be somewhat more."""
        if len(self.ranks) >= self.size:
            kept = np.sort(np.argsort(self.ranks, kind="stable")[: self.size])
            self.ranks, self.numbers, self.ids = (
                self.ranks[kept],
                self.numbers[kept],
                self.ids[kept],
            )
            self.bound = float(self.ranks.max())
            held = np.isin(self.owners, self.numbers)
            self.owners, self.latents, self.acts = (
                self.owners[held],
                self.latents[held],
                self.acts[held],
            )

    def state(self) -> Arrays:
        """Everything, as arrays by name."""
        self.prune()
        names = ("ranks", "numbers", "ids", "owners", "latents", "acts")
        return {name: getattr(self, name) for name in names}

    def load(self, state: Arrays) -> None:
        """Goes on from such arrays."""
        for name, array in state.items():
            setattr(self, name, array)
        self.prune()
