"""Texts with labels: files of JSON lines, or data sets on the hub by their names."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from hsae_hub.activations import told_of_dataset
from hsae_hub.errors import NotFoundError, UsageError
from hsae_hub.evaluation.parts import digest_of
from hsae_hub.models import LanguageModel

Array = np.ndarray
TRAIN = 0.8  # of the texts, where the data do not say which are for testing
FEWEST_TESTING = 0.1  # of the texts: fewer are not taken as the part to test on
TESTING = ("test", "heldout")  # a row with another split than these and `train` is left out
_OPENERS: dict[str, Callable[..., IO[str]]] = {".xz": lzma.open, ".gz": gzip.open}
_SUFFIXES = (".jsonl", ".jsonl.xz", ".jsonl.gz", ".json")


class Columns(NamedTuple):
    """Which columns of the data are read."""

    text: str = "text"
    label: str = "label"
    second: str | None = None
    """A second label, such as gender, which comes with the first one by accident."""


class Labelled(NamedTuple):
    """Texts and their classes."""

    name: str
    texts: list[str]
    classes: list[str]
    labels: Int[Array, " texts"]
    is_train: Bool[Array, " texts"]
    second: Int[Array, " texts"] | None
    """0 and 1 for the two commonest values of the second label, -1 for others."""

    def digest(self) -> str:
        """Names the data by all that is in them."""
        second = [] if self.second is None else self.second.tolist()
        return digest_of(
            [self.texts, self.classes, self.labels.tolist(), second, self.is_train.tolist()]
        )


def read_labelled(
    source: str, columns: Columns, *, limit: int, seed: int, split: str = "train"
) -> Labelled:
    """At most `limit` texts of a file or a data set, drawn by the seed.

    A column `split` says which are for testing; without one, or with less than a tenth of them for testing, a fifth
    is drawn.

    Raises:
        NotFoundError: no such file, data set or column.
        UsageError: the file is not JSON lines, or has fewer than two classes.
    """
    path = Path(source).expanduser()
    is_file = path.is_file() or source.endswith(_SUFFIXES)
    rows = list(_lines(path) if is_file else _dataset(source, split, limit))
    wanted = [columns.text, columns.label, *([columns.second] if columns.second else [])]
    for row in rows:
        if lacking := [name for name in wanted if row.get(name) is None]:
            raise NotFoundError(
                f"a row of {source} has no {lacking[0]!r}",
                why=f"its columns: {', '.join(row)}",
                fix="--text-column, --label-column or --spurious",
            )
    splits = ("train", *TESTING)
    rows = [row for row in rows if row.get("split") is None or row["split"] in splits]
    rng = np.random.default_rng(seed)
    rows = [rows[i] for i in rng.permutation(len(rows))[:limit]]
    classes = sorted({str(row[columns.label]) for row in rows})
    if len(classes) < 2:
        raise UsageError(f"{source} has {len(classes)} classes, expected two or more")
    known = [row.get("split") for row in rows]
    testing = np.array([each in TESTING for each in known])
    if testing.mean() >= FEWEST_TESTING and not testing.all():
        is_train = ~testing
    else:
        is_train = rng.permutation(len(rows)) < TRAIN * len(rows)
    name = path.name.split(".")[0] if is_file else source
    return Labelled(
        name,
        [str(row[columns.text]) for row in rows],
        classes,
        np.array([classes.index(str(row[columns.label])) for row in rows]),
        is_train,
        _two([str(row[columns.second]) for row in rows]) if columns.second else None,
    )


def _two(values: Sequence[str]) -> Int[Array, " texts"]:
    names, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:2]
    two = sorted(str(names[i]) for i in order)
    return np.array([two.index(value) if value in two else -1 for value in values])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise NotFoundError(f"no file {path}", why=f"looked from {Path.cwd()}")
    opener = _OPENERS.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError as error:
                raise UsageError(f"{path}, line {number}, is not JSON: {error}") from None
            if isinstance(row, dict):
                yield row


def _dataset(name: str, split: str, limit: int) -> Iterator[dict[str, Any]]:
    import datasets

    with told_of_dataset(name, f"{name}, split {split}"):
        found: Any = datasets.load_dataset(name, split=split, streaming=True)
        features = found.features or {}
        named = {key: each for key, each in features.items() if hasattr(each, "int2str")}
        for row in islice(found.shuffle(seed=0, buffer_size=10_000), limit):
            yield {
                key: named[key].int2str(value) if key in named else value
                for key, value in row.items()
            }


def balanced(
    is_class: Bool[Array, " texts"], among: Bool[Array, " texts"], rng: np.random.Generator
) -> Int[Array, " chosen"]:
    """Texts of a class, and as many others, drawn; in the order of the data."""
    inside, outside = np.flatnonzero(is_class & among), np.flatnonzero(~is_class & among)
    size = min(len(inside), len(outside))
    chosen = [rng.choice(each, size, replace=False) for each in (inside, outside)]
    return np.sort(np.concatenate(chosen))


def longest_context(lm: LanguageModel, wanted: int = 128) -> int:
    """Tokens of a text that are read: SAEBench's 128, or as many as the model can."""
    return min(wanted, lm.max_tokens or wanted)
