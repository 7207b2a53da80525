"""Spurious correlation removal and targeted probe perturbation (SAEBench): can few latents be taken out for a concept?

Decoding is linear in acts, so that a latent is taken out of a text's mean activation by its mean act times its row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix

from hsae_hub.attach import Attached
from hsae_hub.errors import UsageError
from hsae_hub.evaluation.bench import Bench
from hsae_hub.evaluation.bootstrap import Interval, mean_of, of_means, of_sums
from hsae_hub.evaluation.labelled import Labelled, balanced
from hsae_hub.evaluation.probes import fit_logistic
from hsae_hub.evaluation.probing import FEWEST_TEST, FEWEST_TRAIN, measure_sets
from hsae_hub.evaluation.reading import decoder, pooled, tokenised
from hsae_hub.evaluation.report import Measured, Report, Result

Array = np.ndarray
NS = (2, 5, 10, 20, 50, 100)
MOST_PAIRS = 4  # of classes, for SCR
MOST_CLASSES = 5  # for TPP


class Probe(NamedTuple):
    weight: Float[Array, " d"]
    bias: float

    def right(
        self, x: Float[Array, "texts d"], truth: Bool[Array, " texts"]
    ) -> Float[Array, " texts"]:
        """1 where it guesses right, else 0."""
        return np.asarray((x @ self.weight + self.bias > 0) == truth, dtype=np.float64)


def measure_scr(bench: Bench, sets: Sequence[Labelled]) -> Report:
    """SCR of the sets that have a second label, TPP of all: 1 is best, 0 is no effect.

    Raises:
        UsageError: no data, or too few texts of two classes.
    """
    bench.check_reads_text("scr")
    if not sets:
        raise UsageError(
            "scr needs labelled texts, with a second label for spurious correlations",
            fix="--probing FILE.jsonl --spurious COLUMN",
        )
    return measure_sets(bench, "scr", sets, {"n": list(NS)}, _measure)


def _measure(
    bench: Bench, data: Labelled, longest: int, saes: dict[str, Attached]
) -> dict[str, Measured]:
    rows = tokenised(bench.lm, data.texts, longest)
    read = pooled(bench, saes, rows, f"reading {data.name}")
    found = {}
    for done, (name, each) in enumerate(saes.items(), 1):
        acts = read.acts[name]
        views = {"": acts}
        if each.sae.shape.n_children:
            views["_parents"] = acts[:, : each.sae.shape.n_parents]
        results: list[Result] = []
        details: dict[str, Any] = {"tokens": read.tokens}
        for view, some in views.items():
            texts = Texts(read.x, some, decoder(each.sae, some))
            perturbed = score_tpp(texts, data, bench.seed)
            results += [value.result(f"tpp_{n}{view}") for n, value in perturbed.items()]
            if data.second is not None:
                removed, pairs = score_scr(texts, data, bench.seed)
                results += [value.result(f"scr_{n}{view}") for n, value in removed.items()]
                details["pairs" + view] = pairs
        found[name] = Measured(results, details)
        bench.tell(f"scr {data.name}", done, len(saes))
    return found


class Texts(NamedTuple):
    """Mean activations and acts of texts, and the decoder rows of the latents that act."""

    x: Float[Array, "texts d"]
    acts: csr_matrix
    rows: tuple[Int[Array, " used"], Float[Array, "used d"]]

    def without(
        self, some: Int[Array, " some"], latents: Int[Array, " n"]
    ) -> Float[Array, "some d"]:
        """Mean activations of some texts with latents taken out; `latents` count among those that act."""
        used, rows = self.rows
        taken = np.asarray(self.acts[some][:, used[latents]].todense())
        return np.asarray(self.x[some] - taken @ rows[latents])

    def effects(
        self, some: Int[Array, " some"], truth: Bool[Array, " some"], probe: Probe
    ) -> tuple[Float[Array, " used"], Float[Array, " used"]]:
        """Difference of mean acts between a class and the others, and each row's product with the probe."""
        used, rows = self.rows
        acts = self.acts[some][:, used]
        inside, outside = (np.asarray(acts[each].mean(0)).ravel() for each in (truth, ~truth))
        return inside - outside, rows @ probe.weight

    def fit(self, some: Int[Array, " some"], truth: Bool[Array, " some"]) -> Probe:
        """A probe of activations."""
        return Probe(*fit_logistic(self.x[some], truth))


def top(effects: Float[Array, " used"], n: int) -> Int[Array, " _"]:
    """The latents with the largest effects; those without any are left out."""
    order = np.argsort(-effects, kind="stable")[:n]
    return np.asarray(order[effects[order] != 0])


def score_scr(
    texts: Texts, data: Labelled, seed: int
) -> tuple[dict[int, Interval], list[dict[str, Any]]]:
    """SCR at every n, the mean over pairs of classes, and what the pairs are.

    A probe learns class A with the second label 0 against B with 1. The better it knows the label that it was not
    meant to learn, the more latents of that one are taken out; 1 is the accuracy of a probe trained without the
    correlation.

    Raises:
        UsageError: no two classes have enough texts with both second labels.
    """
    scores: dict[int, list[Interval]] = {n: [] for n in NS}
    told: list[dict[str, Any]] = []
    for first, second in _pairs(data):
        cells = _Cells(data, first, second, seed)
        biased = texts.fit(cells.biased, data.labels[cells.biased] == first)
        truths = {"class": data.labels == first, "second": data.second == 0}
        probes = {
            name: texts.fit(cells.train, truth[cells.train]) for name, truth in truths.items()
        }
        right = {
            name: biased.right(texts.x[cells.test], truth[cells.test])
            for name, truth in truths.items()
        }
        wanted, spurious = ("class", "second")
        if right["class"].mean() > right["second"].mean():
            wanted, spurious = spurious, wanted
        clean = probes[wanted].right(texts.x[cells.test], truths[wanted][cells.test])
        pair = {
            "classes": [data.classes[first], data.classes[second]],
            "evaluated_on": wanted,
            "biased": float(right[wanted].mean()),
            "clean": float(clean.mean()),
            "texts": len(cells.test),
        }
        told.append(pair)
        if clean.mean() <= right[wanted].mean():
            continue  # nothing to win back
        difference, product = texts.effects(
            cells.train, truths[spurious][cells.train], probes[spurious]
        )
        effects = np.abs(difference * product)
        for n in NS:
            x = texts.without(cells.test, top(effects, n))
            changed = biased.right(x, truths[wanted][cells.test])
            sums = np.stack([changed, right[wanted], clean], 1)
            scores[n].append(of_sums(sums, _won_back, seed)["scr"])
    return {n: mean_of(each) for n, each in scores.items() if each}, told


def _won_back(sums: Float[Array, "b 3"]) -> dict[str, Float[Array, " b"]]:
    changed, before, clean = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"scr": (changed - before) / (clean - before)}


class _Cells:
    """Texts of two classes with both second labels, as many of each."""

    def __init__(self, data: Labelled, first: int, second: int, seed: int) -> None:
        rng = np.random.default_rng([seed, first, second])
        train = _drawn(data, first, second, data.is_train, rng)
        self.biased = np.sort(np.concatenate([train[0], train[3]]))
        self.train = np.sort(np.concatenate(train))
        self.test = np.sort(np.concatenate(_drawn(data, first, second, ~data.is_train, rng)))


def _drawn(
    data: Labelled, first: int, second: int, among: Bool[Array, " texts"], rng: np.random.Generator
) -> list[Int[Array, " n"]]:
    cells = [
        np.flatnonzero((data.labels == label) & (data.second == value) & among)
        for label in (first, second)
        for value in (0, 1)
    ]
    size = min(len(cell) for cell in cells)
    return [rng.choice(cell, size, replace=False) for cell in cells]


def _pairs(data: Labelled) -> Iterable[tuple[int, int]]:
    assert data.second is not None
    sizes = {}
    for label in range(len(data.classes)):
        cells = [
            int(((data.labels == label) & (data.second == value) & among).sum())
            for value in (0, 1)
            for among in (data.is_train, ~data.is_train)
        ]
        if min(cells[::2]) >= FEWEST_TRAIN and min(cells[1::2]) >= FEWEST_TEST:
            sizes[label] = min(cells)
    order = sorted(sizes, key=lambda label: (-sizes[label], label))[: 2 * MOST_PAIRS]
    if len(order) < 2:
        raise UsageError(
            f"{data.name} has {len(order)} classes with both second labels, {FEWEST_TRAIN} texts each to train on "
            f"and {FEWEST_TEST} to test; expected two or more"
        )
    return list(zip(order[::2], order[1::2], strict=False))


def score_tpp(texts: Texts, data: Labelled, seed: int) -> dict[int, Interval]:
    """TPP at every n: what taking out a class's latents costs its own probe, less what it costs those of the others.

    Raises:
        UsageError: fewer than two classes have enough texts.
    """
    counts = {
        label: int(((data.labels == label) & data.is_train).sum())
        for label in range(len(data.classes))
        if ((data.labels == label) & ~data.is_train).sum() >= FEWEST_TEST
    }
    chosen = sorted(counts, key=lambda label: (-counts[label], label))[:MOST_CLASSES]
    chosen = [label for label in chosen if counts[label] >= FEWEST_TRAIN]
    if len(chosen) < 2:
        raise UsageError(f"{data.name} has {len(chosen)} classes with enough texts; tpp needs two")
    probes, effects, tests = {}, {}, {}
    for label in chosen:
        rng = np.random.default_rng([seed, label])
        is_class = data.labels == label
        train = balanced(is_class, data.is_train, rng)
        tests[label] = balanced(is_class, ~data.is_train, rng)
        probes[label] = texts.fit(train, is_class[train])
        difference, product = texts.effects(train, is_class[train], probes[label])
        effects[label] = difference.clip(min=0) * product  # of latents that act more on the class
    scores = {}
    for n in NS:
        groups = []
        taken = {label: top(effects[label], n) for label in chosen}
        for label in chosen:
            test, truth = tests[label], (data.labels == label)[tests[label]]
            before = probes[label].right(texts.x[test], truth)
            lost = {
                other: before - probes[label].right(texts.without(test, latents), truth)
                for other, latents in taken.items()
            }
            others = np.mean([lost[other] for other in chosen if other != label], axis=0)
            groups.append(lost[label] - others)
        scores[n] = of_means(groups, seed)
    return scores
