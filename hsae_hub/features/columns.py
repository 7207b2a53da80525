"""Columns of numbers, of words, and of lists of both, as Arrow holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hsae_hub.architectures import TreeShape
from hsae_hub.features.chunks import AHEAD, NO_TOKEN, Ints
from hsae_hub.features.keeping import KeptContexts
from hsae_hub.features.tables import BANDS, CONTEXTS


def lists(sizes: NDArray[np.generic], values: pa.Array) -> pa.Array:
    """A list a row, of so many of the values each."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def structs(columns: Mapping[str, Any]) -> pa.Array:
    """One struct a row."""
    arrays = [each if isinstance(each, pa.Array) else pa.array(each) for each in columns.values()]
    return pa.StructArray.from_arrays(arrays, names=list(columns))


def names_of(shape: TreeShape, latents: NDArray[np.generic]) -> pa.Array:
    """`4121` and `4121/3` for flat indices."""
    n = shape.n_parents
    if not shape.n_children:
        return pa.array([str(i) for i in latents.tolist()], pa.string())
    parent, child = np.divmod(latents.astype(np.int64) - n, shape.n_children)
    words = [
        str(i) if i < n else f"{p}/{c}"
        for i, p, c in zip(latents.tolist(), parent.tolist(), child.tolist(), strict=True)
    ]
    return pa.array(words, pa.string())


def token_lists(vocabulary: pa.Array, ids: NDArray[np.generic]) -> pa.Array:
    """The texts of each row's tokens, `NO_TOKEN` left out."""
    held = ids != NO_TOKEN
    return lists(held.sum(1), vocabulary.take(pa.array(ids[held])))


def contexts_table(
    shape: TreeShape, vocabulary: pa.Array, latents: Ints, top: KeptContexts, sampled: KeptContexts
) -> pa.Table:
    """The kept contexts of some latents, latent by latent, the strongest first, then band by band."""
    parts = []
    for kept, is_sample in ((top, False), (sampled, True)):
        counts = kept.counts[latents]
        row, slot = np.nonzero(np.arange(kept.size) < counts[:, None])
        acts = kept.acts[latents][row, slot]
        contexts = kept.contexts[latents][row, slot]
        order = np.lexsort((contexts, -acts, row))
        rank = slot  # places of a row are as many as its contexts, whatever their order
        band = rank * BANDS // counts[row] + 1 if is_sample else np.zeros_like(rank)
        source = (latents[row[order]], slot[order])
        parts.append((row, band, rank, source, kept))
    rows = np.concatenate([part[0] for part in parts])
    order = np.lexsort(
        (
            np.concatenate([part[2] for part in parts]),
            np.repeat([0, 1], [len(part[0]) for part in parts]),
            rows,
        )
    )

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(kept, name)[source] for *_, source, kept in parts])[order]

    ids, acts = joined("ids"), joined("acts")
    held = ids != NO_TOKEN
    around = joined("around").astype(np.float32) * acts[:, None]
    around[:, AHEAD] = acts
    found = latents[rows[order]]
    columns = [
        found,
        names_of(shape, found),
        np.concatenate([part[1] for part in parts])[order],
        np.concatenate([part[2] for part in parts])[order],
        acts,
        joined("contexts"),
        joined("positions"),
        held[:, :AHEAD].sum(1),
        token_lists(vocabulary, ids),
        lists(held.sum(1), pa.array(around[held])),
    ]
    return as_table(CONTEXTS, columns)


def as_table(schema: pa.Schema, columns: Sequence[Any]) -> pa.Table:
    """Columns in the order of a schema, in its types."""
    arrays = [
        (each if isinstance(each, pa.Array) else pa.array(each)).cast(field.type)
        for each, field in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
