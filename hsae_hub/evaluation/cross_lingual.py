"""Do the same latents act on a sentence in another language? (Muchane et al. 2025, figure 5b)"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from hsae_hub.attach import Attached
from hsae_hub.errors import NotFoundError, UsageError
from hsae_hub.evaluation.bench import Bench
from hsae_hub.evaluation.bootstrap import of_mean
from hsae_hub.evaluation.labelled import longest_context
from hsae_hub.evaluation.parts import digest_of
from hsae_hub.evaluation.reading import pooled, tokenised
from hsae_hub.evaluation.report import Measured, Report

TOP = 8


class Parallel(NamedTuple):
    """The same sentences in several languages."""

    names: list[str]
    lines: list[list[str]]
    """A list a language, all of the same length."""


def read_parallel(files: Sequence[Path]) -> Parallel:
    """Text files whose lines are translations of each other.

    Raises:
        NotFoundError: a file is missing.
        UsageError: fewer than two files, files of different lengths, or a blank line.
    """
    if len(files) < 2:
        raise UsageError(
            "cross-lingual needs the same sentences in two languages or more, line by line",
            fix="--parallel en.txt --parallel de.txt",
        )
    for file in files:
        if not file.is_file():
            raise NotFoundError(f"no file {file}", why=f"looked from {Path.cwd()}")
    lines = [file.read_text(encoding="utf-8").splitlines() for file in files]
    sizes = [len(each) for each in lines]
    if len(set(sizes)) > 1 or sizes[0] < 2:
        told = ", ".join(f"{file.name} {size:,}" for file, size in zip(files, sizes, strict=True))
        raise UsageError(f"the files have {told} lines, expected equal numbers, two or more")
    for file, each in zip(files, lines, strict=True):
        if blank := [number for number, line in enumerate(each, 1) if not line.strip()]:
            raise UsageError(f"{file.name}, line {blank[0]}, is blank; expected a sentence a line")
    return Parallel([file.stem for file in files], lines)


def measure_cross_lingual(bench: Bench, parallel: Parallel) -> Report:
    """Symmetric difference of the top 8 latents on the last token of a sentence and of its translation: 0 to 16.

    `…_others` is the same against another sentence of the other language: what it is where nothing is shared but the
    language and the place.

    Raises:
        UsageError: an SAE of an embedding's rows.
    """
    bench.check_reads_text("cross-lingual")
    settings = {"top": TOP, "files": parallel.names}
    digest = digest_of(parallel.lines)
    found = bench.measure("cross-lingual", settings, digest, partial(_measure, bench, parallel))
    n = len(parallel.lines[0])
    data = [f"{n:,} sentences in {', '.join(parallel.names)}"]
    tokens = n * len(parallel.names)
    return bench.report("cross-lingual", found, tokens=tokens, data=data, settings=settings)


def _measure(bench: Bench, parallel: Parallel, saes: dict[str, Attached]) -> dict[str, Measured]:
    lm, n = bench.lm, len(parallel.lines[0])
    every = [line for lines in parallel.lines for line in lines]
    rows = tokenised(lm, every, longest_context(lm, 1 << 20))
    ends = [max(i for i, each in enumerate(row) if each not in lm.special_ids) for row in rows]
    read = pooled(bench, saes, rows, "reading sentences", at=ends)
    found = {}
    for name, each in saes.items():
        n_parents = each.sae.shape.n_parents
        views = {"": read.acts[name]}
        if each.sae.shape.n_children:
            views["_parents"] = read.acts[name][:, :n_parents]
            views["_children"] = read.acts[name][:, n_parents:]
        results, details = [], {}
        for view, acts in views.items():
            sets = [top_sets(acts[at : at + n]) for at in range(0, len(rows), n)]
            pairs = {
                f"{parallel.names[a]}-{parallel.names[b]}": differences(sets[a], sets[b])
                for a, b in combinations(range(len(sets)), 2)
            }
            others = [
                differences(sets[a], sets[b][1:] + sets[b][:1])
                for a, b in combinations(range(len(sets)), 2)
            ]
            key = f"cross_lingual_difference{view}"
            results.append(of_mean(np.mean(list(pairs.values()), 0), bench.seed).result(key))
            results.append(of_mean(np.mean(others, 0), bench.seed).result(f"{key}_others"))
            details[view.strip("_") or "all"] = {
                "pairs": {pair: float(np.mean(each)) for pair, each in pairs.items()},
                "latents": float(np.mean([len(each) for some in sets for each in some])),
            }
        found[name] = Measured(results, details)
    return found


def top_sets(acts: csr_matrix, top: int = TOP) -> list[frozenset[int]]:
    """The latents with the largest positive acts of each row, at most `top`; of equals the first."""
    found = []
    for row in range(acts.shape[0]):
        span: Any = slice(acts.indptr[row], acts.indptr[row + 1])
        values, columns = acts.data[span], acts.indices[span]
        order = np.lexsort((columns, -values))[:top]
        found.append(frozenset(int(columns[i]) for i in order if values[i] > 0))
    return found


def differences(left: Sequence[frozenset[int]], right: Sequence[frozenset[int]]) -> list[float]:
    """Size of the symmetric difference, row by row."""
    return [float(len(a ^ b)) for a, b in zip(left, right, strict=True)]
