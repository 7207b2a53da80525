"""Reads an index: one feature at a time, whatever its size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hsae_hub.architectures import TreeShape
from hsae_hub.errors import CorruptError, NotFoundError, UsageError
from hsae_hub.features.gallery import relabel
from hsae_hub.features.labels import LABELS, Label, read_labels, write_labels
from hsae_hub.features.names import FOLDER, INDEX
from hsae_hub.features.pages import Example, FeaturePage, Relative
from hsae_hub.features.tables import CONTEXTS, LATENTS, SCHEMA, WINDOWS

By = Literal["label", "token", "text"]
_TABLES = {"latents.parquet": LATENTS, "contexts.parquet": CONTEXTS, "windows.parquet": WINDOWS}
INDEX_TABLES = (*_TABLES, LABELS)
"""Files of an index beside `index.json` and the gallery; the labels may be missing."""
_LARGEST_JSON = 1 << 20
_BANDS = 3
"""Contexts of each band on a page."""
_TILES = 3
"""Contexts of each child on its parent's page."""


class FeatureIndex:
    """What is known of every latent of an SAE. Tables are read from disk when they are asked for."""

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self.folder = folder
        self.info = info
        """What `index.json` says."""
        self.shape = TreeShape(info["n_parents"], info["n_children"])

    @classmethod
    def open(cls, folder: str | Path) -> FeatureIndex:
        """Opens the index of an SAE's folder, or the folder of an index itself.

        Raises:
            NotFoundError: there is none.
            CorruptError: it is not an index that this release reads, or a table is missing or another.
        """
        folder = Path(folder)
        inner = folder / FOLDER if (folder / FOLDER / INDEX).is_file() else folder
        path = inner / INDEX
        if not path.is_file():
            raise NotFoundError(
                f"no index in {folder}", why=f"{FOLDER}/{INDEX} is not there", fix="hsae index REF"
            )
        try:
            if path.stat().st_size > _LARGEST_JSON:
                raise ValueError("it is too large")
            info = json.loads(path.read_text(encoding="utf-8"))
            found = info["schema"]
            shape = TreeShape(int(info["n_parents"]), int(info["n_children"]))
            files = {name: int(info["files"][name]["size"]) for name in _TABLES}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptError(f"{path} is not an index: {error!r}") from None
        if found != SCHEMA:
            raise CorruptError(f"{path} is of {found!r}, expected {SCHEMA!r}")
        for name, size in files.items():
            _check_table(inner / name, size)
        if pq.read_metadata(inner / "latents.parquet").num_rows != shape.d_sae:
            raise CorruptError(f"{inner / 'latents.parquet'} does not have {shape.d_sae} latents")
        return cls(inner, info)

    def __repr__(self) -> str:
        i = self.info
        return (
            f"FeatureIndex({self.shape.n_parents:,} × {self.shape.n_children}, {i['tokens']:,} tokens of "
            f"{'; '.join(i['data'])}, {self.folder})"
        )

    @cached_property
    def labels(self) -> dict[str, Label]:
        """Labels that were given, by feature; the others have tokens for one."""
        return read_labels(self.folder)

    def feature(self, name: str | int, *, bands: int = _BANDS) -> FeaturePage:
        """The page of one feature: `4121`, `4121/3`, or a flat index; `bands` contexts of each band are on it.

        Raises:
            NotFoundError: there is no such feature.
        """
        latent = self.shape.index_of(name)
        row = self._rows([latent])[0]
        parent = self.shape.parent_of(latent)
        top = latent if parent is None else parent
        first = self.shape.child(top, 0) if self.shape.n_children else 0
        family = range(first, first + self.shape.n_children)
        rows = {each["latent"]: each for each in self._rows([top, *family])}
        shown = self.examples([latent, *family])
        children = tuple(
            self._relative(rows[i], tuple(shown.get(i, ())[:_TILES]))
            for i in sorted(family, key=lambda i: (-rows[i]["fired"], i))
        )
        examples = shown.get(latent, [])
        kept = [e for e in examples if e.band == 0]
        for band in range(1, 6):
            kept += [e for e in examples if e.band == band][:bands]
        return FeaturePage(
            row={**row, "label": self.label_of(row)},
            parent=None if parent is None else self._relative(rows[top]),
            children=children,
            examples=tuple(kept),
            named=self._named(row),
            score=self.labels[row["feature"]].score if row["feature"] in self.labels else None,
            source=self.labels[row["feature"]].source
            if row["feature"] in self.labels
            else "tokens",
            about={key: self.info[key] for key in ("model", "hookpoint", "tokens", "data")},
        )

    def label_of(self, row: dict[str, Any]) -> str:
        """Words for a row of the table; empty for a latent that never acted."""
        given = self.labels.get(row["feature"])
        return given.label if given else row["label"] or ""

    def add_labels(self, labels: Mapping[str, Label]) -> None:
        """Keeps labels in the folder, in the place of others of these features; the card's gallery shows them too."""
        self.labels.update(labels)
        write_labels(self.folder, self.labels)
        relabel(self.folder, {name: each.label for name, each in self.labels.items()})

    def all_labels(self) -> dict[str, str]:
        """Words for every feature that acted, by its name."""
        rows = self._columns("feature", "label")
        return {row["feature"]: label for row in rows if (label := self.label_of(row))}

    def find(self, query: str, *, by: By = "label", limit: int = 20) -> list[dict[str, Any]]:
        """Features whose label has these words, that act on this token, or whose strongest contexts hold this text.

        Case makes no difference. Each comes with its label, density and what was found. A token has to be a whole one,
        with or without its leading blank; those that act mostly on it come first, else those that act most often.

        Raises:
            UsageError: the query is empty.
        """
        if not query.strip():
            raise UsageError("there is nothing to look for: the query is empty")
        wanted = query.casefold()
        if by == "token":
            found = self._by_token(wanted.strip())
        elif by == "text":
            found = self._by_text(query)
        else:
            rows = self._columns("latent", "feature", "label", "density")
            hits = [r for r in rows if wanted in self.label_of(r).casefold()]
            found = [{**row, "found": self.label_of(row)} for row in hits]
            found.sort(key=lambda row: (-row["density"], row["latent"]))
        return [
            {
                "feature": row["feature"],
                "label": self.label_of(row),
                "density": row["density"],
                "found": row["found"],
            }
            for row in found[:limit]
        ]

    def examples(self, latents: list[int]) -> dict[int, list[Example]]:
        """The kept contexts of some latents: the strongest first, then band by band."""
        found: dict[int, list[Example]] = {}
        table = pq.read_table(self.folder / "contexts.parquet", filters=[("latent", "in", latents)])
        for row in table.to_pylist():
            found.setdefault(row["latent"], []).append(
                Example(row["band"], row["act"], row["tokens"], row["acts"], row["at"])
            )
        return found

    def _by_token(self, wanted: str) -> list[dict[str, Any]]:
        found = []
        for row in self._columns("latent", "feature", "label", "density", "tokens"):
            weights = [
                (t["weight"], t["token"])
                for t in row["tokens"] or ()
                if t["token"].strip().casefold() == wanted
            ]
            if weights:
                whole = sum(weight for weight, _ in weights)
                told = f"{max(weights)[1]!r} {whole:.0%} of its strongest acts"
                found.append({**row, "found": told, "weight": whole})
        return sorted(found, key=lambda row: (-row["weight"], row["latent"]))

    def _by_text(self, wanted: str) -> list[dict[str, Any]]:
        hits: dict[int, tuple[int, str]] = {}
        file = pq.ParquetFile(self.folder / "contexts.parquet")
        for batch in file.iter_batches(columns=["latent", "band", "tokens"]):
            texts = pc.binary_join(batch.column("tokens"), "")
            says = pc.match_substring(texts, wanted, ignore_case=True)
            held = pc.and_(pc.equal(batch.column("band"), 0), says)
            found = batch.column("latent").filter(held).to_pylist(), texts.filter(held).to_pylist()
            for latent, text in zip(*found, strict=True):
                count, first = hits.get(latent, (0, " ".join(text.split())))
                hits[latent] = count + 1, first
        rows = {r["latent"]: r for r in self._rows(sorted(hits))}
        order = sorted(hits, key=lambda latent: (-hits[latent][0], latent))
        return [
            {**rows[i], "found": f"{hits[i][0]} of its strongest contexts: {hits[i][1]}"}
            for i in order
        ]

    def _columns(self, *names: str) -> list[dict[str, Any]]:
        table = pq.read_table(self.folder / "latents.parquet", columns=list(names))
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def _rows(self, latents: list[int]) -> list[dict[str, Any]]:
        if not latents:
            return []
        table = pq.read_table(self.folder / "latents.parquet", filters=[("latent", "in", latents)])
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def _relative(self, row: dict[str, Any], examples: tuple[Example, ...] = ()) -> Relative:
        share = 1.0 if row["share"] is None else row["share"]
        label = self.label_of(row)
        return Relative(row["feature"], label, share, row["fired"], row["mean_act"], examples)

    def _named(self, row: dict[str, Any]) -> dict[str, str]:
        """Labels of the features that a row speaks of."""
        others = [n["feature"] for n in (row["nearest"] or []) + (row["together"] or [])]
        wanted = sorted({self.shape.index_of(name) for name in others})
        return {each["feature"]: self.label_of(each) for each in self._rows(wanted)}


def _check_table(path: Path, size: int) -> None:
    if not path.is_file():
        raise CorruptError(f"{path} is missing", fix="pull it again, or hsae index")
    if path.stat().st_size != size:
        raise CorruptError(
            f"{path} has {path.stat().st_size} bytes, expected {size}", fix="pull it again"
        )
    try:
        schema = pq.read_schema(path)
    except pa.ArrowInvalid as error:
        raise CorruptError(f"{path} is not Parquet: {str(error).splitlines()[0]}") from None
    expected = _TABLES[path.name]
    if not schema.equals(expected):
        raise CorruptError(f"{path} does not have the columns of {SCHEMA}")
