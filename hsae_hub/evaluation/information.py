"""Mutual information of latents with what is known of tokens and texts, against chance by permutation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix

Array = np.ndarray
PERMUTATIONS = 200
_FEWEST = 10  # texts in which a latent acts, and in which it does not


class Meaning(NamedTuple):
    """What the kept child of one parent says of something else."""

    bits: float
    """Mutual information, as it is counted; never negative, and above 0 by chance alone."""
    chance: float
    """Its mean where children are dealt out at random."""
    excess: float
    """`(bits − chance) / (H(child) − chance)`: 0 is chance, 1 that the child follows from the other thing."""
    p: float
    """Share of the random dealings that reach `bits`."""


class LabelInformation(NamedTuple):
    latents: Int[Array, " n"]
    bits: Float[Array, " n"]
    """Mutual information of acting and the label, less its mean over permuted labels; about 0 by chance."""


def mutual_information(table: Float[Array, "*b rows columns"]) -> Float[Array, "*b"]:
    """In bits, from counts."""
    joint = table / table.sum((-2, -1), keepdims=True)
    apart = joint.sum(-1, keepdims=True) * joint.sum(-2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts: Array = np.where(joint > 0, joint * np.log2(joint / apart), 0.0)
    return np.asarray(parts.sum((-2, -1)))


def meaning(
    pairs: Mapping[int, tuple[Int[Array, " f"], Int[Array, " f"]]], seed: int
) -> dict[int, Meaning]:
    """By parent, from the child and the other thing at each of its acts; parents with one child in use are left out."""
    found = {}
    for parent, (child, other) in pairs.items():
        _, child = np.unique(child, return_inverse=True)
        _, other = np.unique(other, return_inverse=True)
        rows, columns = int(child.max()) + 1, int(other.max()) + 1
        if rows < 2 or columns < 2:
            continue
        rng = np.random.default_rng([seed, parent])
        bits = _information(child, other, rows, columns)
        drawn = np.array(
            [
                _information(rng.permutation(child), other, rows, columns)
                for _ in range(PERMUTATIONS)
            ]
        )
        chance = float(drawn.mean())
        counts = np.bincount(child) / len(child)
        entropy = float(-(counts * np.log2(counts)).sum())
        p = (1 + int((drawn >= bits - 1e-12).sum())) / (1 + PERMUTATIONS)
        excess = (bits - chance) / max(entropy - chance, 1e-12)
        found[parent] = Meaning(bits, chance, excess, p)
    return found


def _information(
    child: Int[Array, " f"], other: Int[Array, " f"], rows: int, columns: int
) -> float:
    """As `mutual_information`, from the cells that are not empty: there are at most as many as acts."""
    _, cells = np.unique(child * columns + other, return_counts=True)
    n = len(child)
    joint = cells / n
    return (
        _bits(np.bincount(child, minlength=rows) / n) + _bits(np.bincount(other) / n) - _bits(joint)
    )


def _bits(shares: Float[Array, " n"]) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log2(positive)).sum())


def label_information(
    fires: csr_matrix, labels: Int[Array, " texts"], seed: int
) -> LabelInformation:
    """Of every latent that acts in some texts and not in others."""
    counts = np.asarray(fires.sum(0)).ravel()
    latents = np.flatnonzero((counts >= _FEWEST) & (counts <= len(labels) - _FEWEST))
    some = fires[:, latents].astype(np.float64).tocsr()
    rng = np.random.default_rng(seed)
    bits = _of_columns(some, labels)
    chance = np.mean([_of_columns(some, rng.permutation(labels)) for _ in range(20)], axis=0)
    return LabelInformation(latents, bits - chance)


def _of_columns(fires: csr_matrix, labels: Int[Array, " texts"]) -> Float[Array, " latents"]:
    n_classes = int(labels.max()) + 1
    ones = csr_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))))
    acting = np.asarray((ones @ fires).todense()).reshape(n_classes, -1)
    silent = np.bincount(labels, minlength=n_classes)[:, None] - acting
    return mutual_information(np.stack([acting.T, silent.T], axis=1))
