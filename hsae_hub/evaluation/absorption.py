"""Feature absorption in the first-letter task (Chanin et al. 2024), by SAEBench's definition.

Acts are multiplied by the norm of their decoder row first: SAEBench takes rows of norm 1 for granted, and so loses or
invents projections of others. A latent whose act is negative acts; SAEBench counts it as silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix, diags

from hsae_hub.architectures import SAE
from hsae_hub.attach import Attached
from hsae_hub.evaluation.bench import Bench
from hsae_hub.evaluation.bootstrap import Interval, of_mean, of_means
from hsae_hub.evaluation.parts import digest_of
from hsae_hub.evaluation.probes import Probe, f1, fit_logistic, train_probe, train_sparse_probe
from hsae_hub.evaluation.reading import decoder, pooled
from hsae_hub.evaluation.report import Measured, Report
from hsae_hub.evaluation.words import EXAMPLES, LETTERS, TEMPLATE, Word, first_letter_words

Array = np.ndarray
TRAIN = 0.8  # of the words
MOST_FEATURES = 10  # of a letter
JUMP = 0.03  # in F1, that one more feature has to bring
MIN_COSINE, FULL_COSINE = 0.1, 0.025  # of an absorbing feature with the probe
MOST_ABSORBING = 3
MIN_SHARE = 0.4  # of the probe's projection that they have to make up
SILENT = 1e-8
MIN_PROBE_F1 = 0.6  # of a letter that counts
ENOUGH_LETTERS = 20


class Absorbed(NamedTuple):
    """One word."""

    fraction: float
    full: bool


def measure_absorption(bench: Bench, *, words: int = 20_000) -> Report:
    """How much of the first-letter direction other latents take over where the letter's own latents do not act.

    Raises:
        UsageError: an SAE of an embedding, or a vocabulary without English words.
    """
    bench.check_reads_text("absorption")
    asked = first_letter_words(bench.lm, limit=words, seed=bench.seed)
    settings = {"words": len(asked), "examples": EXAMPLES, "template": TEMPLATE}
    digest = digest_of(word.ids for word in asked)
    found = bench.measure("absorption", settings, digest, partial(_measure, bench, asked))
    data = [f"{len(asked):,} words of the tokenizer's vocabulary, each after {EXAMPLES} examples"]
    return bench.report("absorption", found, tokens=len(asked), data=data, settings=settings)


def _measure(bench: Bench, words: list[Word], saes: dict[str, Attached]) -> dict[str, Measured]:
    ends = [len(word.ids) - 1 for word in words]
    read = pooled(bench, saes, [word.ids for word in words], "reading words", at=ends)
    letters = np.array([word.letter for word in words])
    is_train = train_words(len(words), bench.seed)
    probe = train_probe(read.x[is_train], letters[is_train], len(LETTERS), bench.seed)
    found = {}
    for done, (name, each) in enumerate(saes.items(), 1):
        views = {"": read.acts[name]}
        n_parents = each.sae.shape.n_parents
        if each.sae.shape.n_children:
            views["_parents"] = read.acts[name][:, :n_parents]
        results, details = [], {}
        for view, acts in views.items():
            told = score_letters(each.sae, acts, read.x, letters, is_train, probe, bench.seed)
            results += [each.result(f"{key}{view}") for key, each in told.numbers.items()]
            details[view.strip("_") or "all"] = told.letters
        note = _note(told.n_letters)
        found[name] = Measured(results, {"letters": details} | ({"note": note} if note else {}))
        bench.tell("absorption", done, len(saes))
    return found


def train_words(n: int, seed: int) -> Bool[Array, " words"]:
    """Which words probes are trained on; drawn from a stream of its own, not the one that drew the words."""
    return np.random.default_rng([seed, 1]).permutation(n) < TRAIN * n


class Scores(NamedTuple):
    numbers: Mapping[str, Interval]
    letters: dict[str, dict[str, Any]]
    """By letter: F1 of the probe and of one latent, the split latents, words, both rates."""
    n_letters: int
    """That the probe knows well enough to count."""


def score_letters(
    sae: SAE[Any],
    acts: csr_matrix,
    x: Float[Array, "words d"],
    letters: Int[Array, " words"],
    is_train: Bool[Array, " words"],
    probe: Probe,
    seed: int,
) -> Scores:
    """Absorption over the test words, letter by letter; only latents among the columns of `acts` are looked at."""
    used, rows = decoder(sae, acts)
    norms = np.linalg.norm(rows, axis=1)
    folded = (acts[:, used] @ diags(norms)).tocsr().astype(np.float32)
    unit = probe.weight / np.linalg.norm(probe.weight, axis=1, keepdims=True)
    cosines = unit @ (rows / np.maximum(norms, 1e-12)[:, None]).T
    weights = train_sparse_probe(folded[is_train], letters[is_train], len(LETTERS), seed)
    test = np.flatnonzero(~is_train)
    scores = probe.scores(x[test])
    details: dict[str, dict[str, Any]] = {}
    fractions, fulls, splits, ones = [], [], [], []
    for letter, name in enumerate(LETTERS):
        truth = letters[test] == letter
        quality = f1(truth, scores[:, letter] > 0)
        if not truth.any() or not (letters[is_train] == letter).any() or not len(used):
            continue
        main, first = _split_features(folded, letters, is_train, letter, weights[letter])
        asked = test[truth & (scores[:, letter] > 0)]
        absorbed = [
            absorption(
                np.asarray(folded[i].todense()).ravel(),
                cosines[letter],
                main,
                float(x[i] @ unit[letter]),
            )
            for i in asked
        ]
        details[name] = {
            "probe_f1": quality,
            "one_latent_f1": first,
            "latents": [sae.shape.name(int(used[i])) for i in main],
            "words": len(asked),
            "absorption_fraction": _mean([each.fraction for each in absorbed]),
            "full_absorption": _mean([float(each.full) for each in absorbed]),
        }
        if quality > MIN_PROBE_F1 and absorbed:
            fractions.append(np.array([each.fraction for each in absorbed]))
            fulls.append(np.array([float(each.full) for each in absorbed]))
            splits.append(float(len(main)))
            ones.append(first)
    numbers: dict[str, Interval] = {}
    if fractions:
        numbers = {
            "absorption_fraction": of_means(fractions, seed),
            "full_absorption": of_means(fulls, seed),
            "split_latents": of_mean(splits, seed),
            "one_latent_f1": of_mean(ones, seed),
        }
    numbers["letters"] = Interval(float(len(fractions)), None, None)
    return Scores(numbers, details, len(fractions))


def absorption(
    acts: Float[Array, " latents"],
    cosines: Float[Array, " latents"],
    main: list[int],
    projection: float,
) -> Absorbed:
    """One word: how much of the probe's `projection` latents other than the letter's `main` ones make up.

    Acts are in the units of decoder rows of norm 1; `cosines` are those of the rows and the probe.
    """
    parts = acts * cosines
    own = float(parts[main].sum())
    others = np.ones(len(acts), dtype=bool)
    others[main] = False
    candidates = np.sort(parts[others & (cosines >= MIN_COSINE) & (parts > 0)])
    taken = float(candidates[-MOST_ABSORBING:].sum())
    top = int(parts.argmax())
    full = (
        projection > 0
        and bool((np.abs(acts[main]) < SILENT).all())
        and bool(cosines[top] >= FULL_COSINE)
        and float(parts[top]) / projection >= MIN_SHARE
    )
    if own >= projection or projection <= 0 or taken / projection < MIN_SHARE:
        return Absorbed(0.0, full)
    if own <= 0:
        return Absorbed(1.0, full)
    taken = min(taken, projection - own)
    return Absorbed(float(np.clip(taken / (taken + own), 0, 1)), full)


def _split_features(
    acts: csr_matrix,
    letters: Int[Array, " words"],
    is_train: Bool[Array, " words"],
    letter: int,
    weights: Float[Array, " latents"],
) -> tuple[list[int], float]:
    """The latents of a letter, as many as each bring F1 on the test words, and the F1 of the first."""
    order = np.argsort(-weights, kind="stable")[:MOST_FEATURES]
    columns = np.asarray(acts[:, order].todense())
    truth = letters == letter
    best, kept, first = -1.0, 0, 0.0
    for k in range(1, len(order) + 1):
        weight, bias = fit_logistic(columns[is_train, :k], truth[is_train], balanced=True)
        reached = f1(truth[~is_train], columns[~is_train, :k] @ weight + bias > 0)
        if k == 1:
            first = reached
        elif reached <= best + JUMP:
            break
        best, kept = reached, k
    return [int(i) for i in order[:kept]], first


def _note(letters: int) -> str | None:
    if letters >= ENOUGH_LETTERS:
        return None
    return (
        f"probes of the activations reach F1 {MIN_PROBE_F1} for {letters} letters, SAEBench asks for "
        f"{ENOUGH_LETTERS}: the model hardly knows here how words are spelt"
    )


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
