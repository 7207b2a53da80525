"""From what a pass has gathered to rows of the tables, all latents of a block at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from hsae_hub.features.chunks import AHEAD, Ints
from hsae_hub.features.columns import (
    as_table,
    lists,
    names_of,
    structs,
    token_lists,
)
from hsae_hub.features.directions import Logits, Strongest
from hsae_hub.features.gathering import Gathered, percentiles
from hsae_hub.features.keeping import KeptContexts, Sample
from hsae_hub.features.tables import LATENTS, WINDOWS

TOGETHER = 8
"""Co-firing parents that are kept of each."""
TOKENS = 5
"""Tokens that are kept of each latent's strongest contexts."""
LABELLED = 3
"""Tokens that make a label."""
_SHARES = (0.5, 0.9, 0.99, 0.999)


class Ranked(NamedTuple):
    """Entries of several rows: row by row, the largest first, with at most so many a row."""

    rows: Ints
    keys: Ints
    values: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Ints, keys: Ints, values: NDArray[np.float64], n: int) -> Ranked:
        """Of entries in any order; of equal values the smaller key comes first."""
        order = np.lexsort((keys, -values, rows))
        rows, keys, values = rows[order], keys[order], values[order]
        begins = np.flatnonzero(np.diff(rows, prepend=-1))
        places = np.arange(len(rows)) - np.repeat(begins, np.diff(begins, append=len(rows)))
        first = places < n
        return cls(rows[first], keys[first], values[first])

    def sizes(self, n_rows: int) -> Ints:
        """Entries of each row."""
        return np.bincount(self.rows, minlength=n_rows)


def strongest_tokens(kept: KeptContexts, latents: Ints, n: int) -> Ranked:
    """Of each latent the tokens of its strongest contexts, by their share of the acts there, 0 to 1."""
    row, slot = np.nonzero(np.arange(kept.size) < kept.counts[latents][:, None])
    acts = kept.acts[latents][row, slot].astype(np.float64)
    ids = kept.ids[latents][row, slot, AHEAD].astype(np.int64)
    whole = np.bincount(row, weights=acts, minlength=len(latents))
    key, inverse = np.unique(row * (ids.max(initial=0) + 1) + ids, return_inverse=True)
    rows, tokens = np.divmod(key, ids.max(initial=0) + 1)
    weights = np.bincount(inverse, weights=acts, minlength=len(key)) / whole[rows]
    return Ranked.of(rows, tokens, weights, n)


def acting_together(sample: Sample, n_parents: int, first: int, last: int) -> tuple[Ranked, Any]:
    """Of parents `first` to `last` those that act on the same sampled tokens, by `both / √(each · other)`.

    Beside it the share of a parent's own tokens, entry by entry.
    """
    rows = np.searchsorted(sample.numbers, sample.owners)
    size = (len(sample.numbers), n_parents)
    acts = sparse.csc_matrix((np.ones(len(rows)), (rows, sample.latents)), shape=size)
    counts = np.asarray(acts.sum(0)).reshape(-1)
    both = (acts[:, first:last].T @ acts).tocoo()
    row, column = both.row.astype(np.int64), both.col.astype(np.int64)
    other = column != row + first
    row, column, data = row[other], column[other], both.data[other]
    own = counts[row + first]
    found = Ranked.of(row, column, data / np.sqrt(own * counts[column]), TOGETHER)
    share = found.values * np.sqrt(counts[found.keys] / counts[found.rows + first])
    return found, share


def label_of(tokens: list[str]) -> str:
    """Words for a latent from the tokens on which it acts: `army, forces, troops`."""
    words = (token.strip() if any(c.isalnum() for c in token) else repr(token) for token in tokens)
    return ", ".join(dict.fromkeys(words))


def latents_table(
    gathered: Gathered,
    vocabulary: pa.Array,
    latents: Ints,
    logits: Logits | None,
    nearest: Strongest,
    directed: Ints,
) -> pa.Table:
    """Rows of a block of consecutive latents; `directed` are those that the last but one arguments speak of."""
    g, shape = gathered, gathered.shape
    fired = g.fired[latents]
    is_child = latents >= shape.n_parents
    parent = (latents - shape.n_parents) // max(shape.n_children, 1)
    of_parent = np.maximum(g.fired[np.where(is_child, parent, 0)], 1)
    histogram = g.histogram[latents]
    held = histogram > 0
    begin = held.argmax(1)
    end = np.where(held.any(1), histogram.shape[1] - held[:, ::-1].argmax(1), begin)
    columns = np.arange(histogram.shape[1])
    inside = (columns >= begin[:, None]) & (columns < end[:, None])
    highest = g.highest_relative[latents]
    levels = percentiles(histogram, highest, _SHARES)
    tokens = strongest_tokens(g.top, latents, TOKENS)
    texts = vocabulary.take(pa.array(tokens.keys))
    sizes = tokens.sizes(len(latents))
    words, ends = texts.to_pylist(), np.cumsum(sizes).tolist()
    labels = [
        label_of(words[stop - size : stop][:LABELLED]) if size else None
        for stop, size in zip(ends, sizes.tolist(), strict=True)
    ]
    weighted = {"token": texts, "id": tokens.keys, "weight": tokens.values}
    columns_found = [
        latents,
        names_of(shape, latents),
        pa.array(parent, mask=~is_child),
        fired,
        fired / max(g.tokens, 1),
        pa.array(fired / of_parent, mask=~is_child),
        g.total[latents] / np.maximum(g.positive[latents], 1),
        g.highest[latents],
        *levels.T,
        highest,
        begin,
        lists(inside.sum(1), pa.array(histogram[inside])),
        pa.array(labels, pa.string()),
        lists(sizes, structs(weighted)),
        _logits_column(logits.top if logits else None, vocabulary, latents, directed),
        _logits_column(logits.bottom if logits else None, vocabulary, latents, directed),
        _nearest_column(nearest, gathered, latents, directed),
        _together_column(gathered, latents),
    ]
    return as_table(LATENTS, columns_found)


def windows_table(sample: Sample, vocabulary: pa.Array) -> pa.Table:
    """The sampled windows, each with the latents that act in it."""
    row = np.searchsorted(sample.numbers, sample.owners)
    order = np.lexsort((-sample.acts, sample.latents, row))
    row, latents, acts = row[order], sample.latents[order], sample.acts[order]
    first = np.flatnonzero(
        np.diff(row, prepend=-1).astype(bool) | np.diff(latents, prepend=-1).astype(bool)
    )
    sizes = np.bincount(row[first], minlength=len(sample.numbers))
    columns = [
        sample.numbers,
        token_lists(vocabulary, sample.ids),
        lists(sizes, pa.array(latents[first])),
        lists(sizes, pa.array(acts[first])),
    ]
    return as_table(WINDOWS, columns)


def _rows_of(latents: Ints, directed: Ints) -> tuple[NDArray[np.bool_], Ints]:
    """Which of the latents are among the sorted `directed`, and where."""
    place = np.searchsorted(directed, latents).clip(max=max(len(directed) - 1, 0))
    there = directed[place] == latents if len(directed) else np.zeros(len(latents), dtype=bool)
    return there, place[there]


def _logits_column(
    found: Strongest | None, vocabulary: pa.Array, latents: Ints, directed: Ints
) -> pa.Array:
    there, rows = _rows_of(latents, directed)
    if found is None:
        return pa.nulls(len(latents), LATENTS.field("top_logits").type)
    ids = found.indices[rows].numpy()
    n = ids.shape[1]
    values = {
        "token": vocabulary.take(pa.array(ids.reshape(-1))),
        "id": ids.reshape(-1),
        "logit": found.values[rows].numpy().reshape(-1),
    }
    return lists(there * n, structs(values))


def _nearest_column(
    found: Strongest, gathered: Gathered, latents: Ints, directed: Ints
) -> pa.Array:
    there, rows = _rows_of(latents, directed)
    which = found.indices[rows].numpy()
    values = {
        "feature": names_of(gathered.shape, which.reshape(-1)),
        "cosine": found.values[rows].numpy().reshape(-1),
    }
    return lists(there * which.shape[1], structs(values))


def _together_column(gathered: Gathered, latents: Ints) -> pa.Array:
    n_parents = gathered.shape.n_parents
    first, last = (min(int(i), n_parents) for i in (latents[0], latents[-1] + 1))
    found, share = acting_together(gathered.together, n_parents, first, last)
    values = {
        "feature": names_of(gathered.shape, found.keys),
        "share": share,
        "coefficient": found.values,
    }
    return lists(found.sizes(len(latents)), structs(values))
