"""Sparse probing (Gurnee et al. 2023): how well few latents tell a class of texts from the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix

from hsae_hub.attach import Attached
from hsae_hub.errors import UsageError
from hsae_hub.evaluation.bench import Bench
from hsae_hub.evaluation.bootstrap import Interval, mean_of, of_means
from hsae_hub.evaluation.labelled import Labelled, balanced, longest_context
from hsae_hub.evaluation.probes import fit_logistic
from hsae_hub.evaluation.reading import pooled, tokenised
from hsae_hub.evaluation.report import Measured, Report, Result

Array = np.ndarray
KS = (1, 2, 5, 20)
FEWEST_TRAIN, FEWEST_TEST = 10, 5  # texts of a class that is probed


def measure_probing(bench: Bench, sets: Sequence[Labelled]) -> Report:
    """Test accuracy of logistic probes on the k latents with the largest difference of class means; chance is 0.5.

    Acts are means over a text's tokens. Each class is told from as many texts of the others; what is reported is the
    mean over classes, then over sets of data.

    Raises:
        UsageError: no data, or no class with enough texts.
    """
    bench.check_reads_text("probing")
    if not sets:
        raise UsageError(
            "probing needs labelled texts", fix="--probing FILE.jsonl or --probing DATASET"
        )
    return measure_sets(bench, "probing", sets, {"k": list(KS)}, _measure)


def measure_sets(
    bench: Bench,
    task: str,
    sets: Sequence[Labelled],
    settings: Mapping[str, Any],
    measure: Callable[[Bench, Labelled, int, dict[str, Attached]], dict[str, Measured]],
) -> Report:
    """A task on each set of labelled texts, and the means over them; `measure` is told how many tokens are read."""
    longest = longest_context(bench.lm)
    told = {**settings, "context": longest}
    found = {
        data.name: bench.measure(task, told, data.digest(), partial(measure, bench, data, longest))
        for data in sets
    }
    merged = {
        name: _merge({data: each[name] for data, each in found.items()}) for name in bench.saes
    }
    tokens = sum(int(each["sae"].details["tokens"]) for each in found.values())
    lines = [
        f"{data.name}: {len(data.texts):,} texts, {len(data.classes)} classes" for data in sets
    ]
    return bench.report(task, merged, tokens=tokens, data=lines, settings=told)


def _merge(found: dict[str, Measured]) -> Measured:
    """The means over several sets of data, and each set's own numbers as details."""
    names = dict.fromkeys(result.name for each in found.values() for result in each.results)
    results = []
    for name in names:
        each = [r for measured in found.values() for r in measured.results if r.name == name]
        mean = mean_of([Interval(r.value, r.low, r.high) for r in each])
        results.append(mean.result(name, each[0].unit))
    own = {
        data: {"results": [r.model_dump() for r in each.results], **each.details}
        for data, each in found.items()
    }
    return Measured(results, {"sets": own})


def _measure(
    bench: Bench, data: Labelled, longest: int, saes: dict[str, Attached]
) -> dict[str, Measured]:
    rows = tokenised(bench.lm, data.texts, longest)
    read = pooled(bench, saes, rows, f"reading {data.name}")
    found = {}
    whole, _ = probe_classes(read.x, data, None, bench.seed)
    for done, (name, each) in enumerate(saes.items(), 1):
        views = {"": read.acts[name]}
        if each.sae.shape.n_children:
            views["_parents"] = read.acts[name][:, : each.sae.shape.n_parents]
        results: list[Result] = []
        chosen = {}
        for view, acts in views.items():
            for k in KS:
                accuracy, latents = probe_classes(acts, data, k, bench.seed)
                results.append(accuracy.result(f"sparse_probing_top_{k}{view}"))
                chosen[f"top_{k}{view}"] = {
                    label: [each.sae.shape.name(i) for i in index]
                    for label, index in latents.items()
                }
        results.append(whole.result("probing_activations"))
        found[name] = Measured(results, {"latents": chosen, "tokens": read.tokens})
        bench.tell(f"probing {data.name}", done, len(saes))
    return found


def probe_classes(
    acts: csr_matrix | Float[Array, "texts width"], data: Labelled, k: int | None, seed: int
) -> tuple[Interval, dict[str, list[int]]]:
    """Accuracy over classes of probes on the best `k` columns, or on all, and those columns by class.

    Raises:
        UsageError: no class has enough texts.
    """
    right, latents = [], {}
    for label, name in enumerate(data.classes):
        is_class = data.labels == label
        enough = (is_class & data.is_train).sum() >= FEWEST_TRAIN
        if not enough or (is_class & ~data.is_train).sum() < FEWEST_TEST:
            continue
        rng = np.random.default_rng([seed, label])
        train = balanced(is_class, data.is_train, rng)
        test = balanced(is_class, ~data.is_train, rng)
        columns = _all(acts) if k is None else best_columns(acts[train], is_class[train], k)
        some, others = _dense(acts, train, columns), _dense(acts, test, columns)
        weight, bias = fit_logistic(some, is_class[train])
        guess = others @ weight + bias > 0
        right.append((guess == is_class[test]).astype(np.float64))
        latents[name] = [int(i) for i in columns]
    if not right:
        raise UsageError(
            f"no class of {data.name} has {FEWEST_TRAIN} texts to train on and {FEWEST_TEST} to test"
        )
    return of_means(right, seed), latents


def best_columns(
    acts: csr_matrix | Float[Array, "texts width"], is_class: Array, k: int
) -> Int[Array, " k"]:
    """The columns whose means over a class and over the others differ most."""
    inside = np.asarray(acts[is_class].mean(0)).ravel()
    outside = np.asarray(acts[~is_class].mean(0)).ravel()
    return np.argsort(-np.abs(inside - outside), kind="stable")[:k]


def _all(acts: csr_matrix | Float[Array, "texts width"]) -> Int[Array, " width"]:
    return np.arange(acts.shape[1])


def _dense(
    acts: csr_matrix | Float[Array, "texts width"],
    rows: Int[Array, " some"],
    columns: Int[Array, " k"],
) -> Float[Array, "some k"]:
    picked = acts[rows][:, columns]
    return picked if isinstance(picked, np.ndarray) else np.asarray(picked.todense())
