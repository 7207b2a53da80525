"""What one pass over a corpus gathers of every latent; memory follows the latents that act, not the corpus."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hsae_hub.architectures import TreeShape
from hsae_hub.features.chunks import NO_TOKEN, WIDTH, Chunk, Floats, Ints, peaks, random_ranks
from hsae_hub.features.keeping import Arrays, KeptContexts, Sample

BINS_A_DOUBLING = 8
"""Bins of the histogram while act / ‖x‖ doubles: a bin is 9 % wide, and its middle at most 4.5 % off."""
LOWEST, HIGHEST = -24, 4
"""Powers of two where the histogram begins and ends; what is outside is counted in its first or last bin."""
BINS = BINS_A_DOUBLING * (HIGHEST - LOWEST)
COFIRING_TOKENS = 65_536
"""Tokens in the sample that tells which parents act together."""
WINDOWS = 512
"""Windows of the corpus, chosen whatever acts in them, that explanations are tested on."""


class Gathered:
    """Counts, sums, histograms and kept contexts of every latent."""

    def __init__(self, shape: TreeShape, *, top: int, sampled: int, seed: int) -> None:
        self.shape = shape
        self.seed = seed
        self.tokens = 0
        self.contexts = 0
        self.fired = np.zeros(shape.d_sae, dtype=np.int64)
        """Tokens on which a latent was not zero."""
        self.positive = np.zeros(shape.d_sae, dtype=np.int64)
        """Tokens on which it was above zero."""
        self.total = np.zeros(shape.d_sae, dtype=np.float64)
        """Sum of its positive acts."""
        self.highest = np.zeros(shape.d_sae, dtype=np.float32)
        """Largest act."""
        self.highest_relative = np.zeros(shape.d_sae, dtype=np.float32)
        """Largest act / ‖x‖."""
        self.histogram = np.zeros((shape.d_sae, BINS), dtype=np.uint32)
        """Tokens by act / ‖x‖, where it is above zero."""
        self.top = KeptContexts(shape.d_sae, top)
        self.sampled = KeptContexts(shape.d_sae, sampled)
        self.together = Sample(COFIRING_TOKENS, 0)
        self.windows = Sample(WINDOWS, WIDTH)

    def add(self, chunk: Chunk) -> None:
        """Takes in the contexts that follow those before."""
        here, begins, sizes = _groups(chunk.latents)
        self.fired[here] += sizes
        above = chunk.acts > 0
        latents, acts, relative = chunk.latents[above], chunk.acts[above], chunk.relative[above]
        here, begins, sizes = _groups(latents)
        if len(here):
            self.positive[here] += sizes
            self.total[here] += np.add.reduceat(acts.astype(np.float64), begins)
            for kept, values in ((self.highest, acts), (self.highest_relative, relative)):
                kept[here] = np.maximum(kept[here], np.maximum.reduceat(values, begins))
            cells, times = np.unique(latents * BINS + bins_of(relative), return_counts=True)
            self.histogram.reshape(-1)[cells] += times.astype(np.uint32)
            found = peaks(chunk)
            self.top.add(chunk, found, -found.acts.astype(np.float64))
            self.sampled.add(chunk, found, random_ranks(self.seed, found.latents, found.contexts))
        self._sample_tokens(chunk)
        self._sample_windows(chunk)
        self.tokens += len(chunk.tokens)
        self.contexts += len(chunk.ids)

    def state(self) -> Arrays:
        """Everything that the next context is added to: only the latents that acted take room."""
        alive = np.flatnonzero(self.fired)
        found: Arrays = {"alive": alive, "seen": np.array([self.tokens, self.contexts])}
        found |= {name: getattr(self, name)[alive] for name in _TABLES}
        for name in ("top", "sampled"):
            found |= {f"{name}.{key}": a for key, a in getattr(self, name).state(alive).items()}
        for name in ("together", "windows"):
            found |= {f"{name}.{key}": array for key, array in getattr(self, name).state().items()}
        return found

    def load(self, state: Arrays) -> None:
        """Goes on from such a state."""
        alive = state["alive"]
        self.tokens, self.contexts = (int(count) for count in state["seen"])
        for name in _TABLES:
            getattr(self, name)[alive] = state[name]

        def part(name: str) -> Arrays:
            return {k.partition(".")[2]: a for k, a in state.items() if k.startswith(f"{name}.")}

        for kept in ("top", "sampled"):
            getattr(self, kept).load(alive, part(kept))
        for sample in ("together", "windows"):
            getattr(self, sample).load(part(sample))

    def _sample_tokens(self, chunk: Chunk) -> None:
        """Tokens with the parents that act on them."""
        numbers = self.tokens + np.arange(len(chunk.tokens))
        ranks = random_ranks(self.seed + 1, numbers, numbers)
        may = ranks < self.together.bound
        parents = chunk.latents < self.shape.n_parents
        rows = np.searchsorted(chunk.tokens, chunk.places[parents])
        chosen = may[rows]
        owners, latents = numbers[rows[chosen]], chunk.latents[parents][chosen]
        acting = owners, latents, chunk.acts[parents][chosen]
        nothing = np.zeros((int(may.sum()), 0), dtype=np.int32)
        self.together.add(numbers[may], ranks[may], nothing, acting)

    def _sample_windows(self, chunk: Chunk) -> None:
        """Of each context one window, around a random token."""
        longest = chunk.ids.shape[1]
        lengths = np.bincount(chunk.tokens // longest, minlength=len(chunk.ids))
        rows = np.flatnonzero(lengths)
        ranks = random_ranks(self.seed + 2, chunk.first + rows, chunk.first + rows)
        may = ranks < self.windows.bound
        rows, ranks = rows[may], ranks[may]
        numbers = chunk.first + rows
        place = random_ranks(self.seed + 3, numbers, numbers) * lengths[rows]
        places = chunk.tokens[
            np.searchsorted(chunk.tokens, rows * longest) + place.astype(np.int64)
        ]
        owner = np.full(chunk.ids.size, NO_TOKEN)
        at, inside = chunk.around(places)
        owner[at[inside]] = np.broadcast_to(numbers[:, None], at.shape)[inside]
        owners = owner[chunk.places]
        held = owners != NO_TOKEN
        acting = owners[held], chunk.latents[held], chunk.acts[held]
        self.windows.add(numbers, ranks, chunk.windows(places), acting)


_TABLES = ("fired", "positive", "total", "highest", "highest_relative", "histogram")


def bins_of(relative: Floats) -> Ints:
    """The bin of each act / ‖x‖ above zero."""
    bins = np.floor(np.log2(relative.astype(np.float64)) * BINS_A_DOUBLING)
    found: Ints = (bins.astype(np.int64) - LOWEST * BINS_A_DOUBLING).clip(0, BINS - 1)
    return found


def bin_edges() -> NDArray[np.float64]:
    """Where the bins begin, and where the last one ends."""
    found: NDArray[np.float64] = 2.0 ** (np.arange(BINS + 1) / BINS_A_DOUBLING + LOWEST)
    return found


def percentiles(
    histogram: NDArray[np.uint32], highest: Floats, shares: tuple[float, ...]
) -> NDArray[np.float64]:
    """Percentiles of act / ‖x‖ by nearest rank, from bins: at most 4.5 % off; 0 where a latent was never positive."""
    edges = bin_edges()
    middles = np.sqrt(edges[1:] * edges[:-1])
    counts = histogram.astype(np.int64).cumsum(1)
    sizes = counts[:, -1]
    found = np.zeros((len(histogram), len(shares)))
    for column, share in enumerate(shares):
        rank = np.maximum(np.ceil(sizes * share), 1)
        found[:, column] = middles[(counts < rank[:, None]).sum(1).clip(max=BINS - 1)]
    return np.where(sizes[:, None] > 0, np.minimum(found, highest[:, None]), 0.0)


def _groups(latents: Ints) -> tuple[Ints, Ints, Ints]:
    """Each latent of a sorted list once, where it begins, and how often it is there."""
    begins = np.flatnonzero(np.diff(latents, prepend=-1))
    return latents[begins], begins, np.diff(begins, append=len(latents))
