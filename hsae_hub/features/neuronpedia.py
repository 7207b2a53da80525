"""Neuronpedia's bulk format: an index written for it, and labels read from it.

A folder `{model}/{layer}-{set}/` with release, model, sourceset and source as JSON lines, and `features/`,
`activations/` and `explanations/` in gzipped batches of 1024 latents. A latent goes by its flat index. The layout is
that of SAEDashboard (neuronpedia_export.py) and of the dumps that Neuronpedia publishes.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hsae_hub.architectures import TreeShape
from hsae_hub.artifact import write_atomic
from hsae_hub.errors import CorruptError, NotFoundError, UsageError
from hsae_hub.features.gathering import bin_edges
from hsae_hub.features.labels import Label
from hsae_hub.features.reading import FeatureIndex

BATCH = 1024
_LONGEST_LINE = 1 << 22  # characters
_LONGEST_LABEL = 1000  # characters
_TYPE = "hsae-hub_top-tokens"

OnProgress = Callable[[int, int], None]


def export_neuronpedia(
    index: FeatureIndex,
    out: Path,
    *,
    source: str,
    creator: str,
    on_progress: OnProgress | None = None,
) -> Path:
    """Writes an index into `out/{model}/{source}`, which is returned; `source` is such as `3-hsae-1024`.

    Labels go out as explanations, those made of tokens too. Acts are in the units of this package: multiples of a
    decoder row. `creator` is the id of the user who uploads it.

    Raises:
        UsageError: `source` is not a layer and a name.
    """
    layer, dash, name = source.partition("-")
    if not (layer.isdecimal() and dash and name.replace("-", "").replace("_", "").isalnum()):
        raise UsageError(f"{source!r} is not a layer and a name, such as 3-hsae")
    model = index.info["model"]["id"].rpartition("/")[2]
    folder: Path = out / model / source
    now = datetime.now(UTC).isoformat()
    by = {"creatorId": creator, "createdAt": now}
    data = "; ".join(index.info["data"])
    title = f"{index.info['architecture']} {index.shape.n_parents} x {index.shape.n_children}"
    release = {"name": name, "description": title, "creatorName": creator, **by}
    sources = {"modelId": model, "name": name, "description": title, "releaseName": name, **by}
    one = {"id": source, "modelId": model, "setName": name, "dataset": data, **by}
    heads = {
        "release": release,
        "model": {"id": model, "displayName": model, "instruct": False, **by},
        "sourceset": {**sources, "creatorName": creator, "visibility": "PRIVATE"},
        "source": {**one, "num_prompts": index.info["contexts"], "visibility": "PRIVATE"},
    }
    for kind, row in heads.items():
        _write_lines(folder / f"{kind}.jsonl", [row])
    known = {"modelId": model, "layer": source}
    file = pq.ParquetFile(index.folder / "latents.parquet")
    for number, batch in enumerate(file.iter_batches(batch_size=BATCH)):
        rows = batch.to_pylist()
        shown = index.examples([row["latent"] for row in rows if row["fired"]])
        texts = [
            {**known, **by, **_activation(row["latent"], i, example)}
            for row in rows
            for i, example in enumerate(shown.get(row["latent"], ()))
        ]
        features = [{**known, **by, **_feature(index, row)} for row in rows]
        words = [{**known, **by, **_explanation(index, row)} for row in rows if index.label_of(row)]
        for kind, lines in (
            ("features", features),
            ("activations", texts),
            ("explanations", words),
        ):
            _write_lines(folder / kind / f"batch-{number}.jsonl.gz", lines)
        if on_progress:
            on_progress(rows[-1]["latent"] + 1, index.shape.d_sae)
    return folder


def import_labels(path: Path, shape: TreeShape) -> dict[str, Label]:
    """Labels from Neuronpedia: a file of JSON or JSON lines, gzipped or not, or a folder with `explanations/` of such.

    Of several explanations of a latent the first one counts.

    Raises:
        NotFoundError: there is no such file.
        CorruptError: it is not JSON, or too large.
        UsageError: it speaks of several sources, of latents that this SAE does not have, or holds no explanation.
    """
    inner = path / "explanations" if (path / "explanations").is_dir() else path
    files = sorted(inner.glob("*.json*")) if inner.is_dir() else [inner]
    if not files or not all(file.is_file() for file in files):
        raise NotFoundError(f"no file of explanations at {path}")
    found: dict[str, Label] = {}
    sources = set()
    for file in files:
        for record in _records(file):
            for each in [{**record, **e} for e in record.get("explanations") or [record]]:
                words, latent = each.get("description"), str(each.get("index", ""))
                if not isinstance(words, str) or not words.strip():
                    continue
                if not latent.isdecimal() or int(latent) >= shape.d_sae:
                    raise UsageError(
                        f"{file} explains latent {latent!r}; this SAE has 0 to {shape.d_sae - 1}"
                    )
                sources.add((each.get("modelId"), each.get("layer")))
                by = str(each.get("explanationModelName") or each.get("typeName") or "neuronpedia")
                label = Label(" ".join(words.split())[:_LONGEST_LABEL], by[:100])
                found.setdefault(shape.name(int(latent)), label)
    if len(sources) > 1:
        told = ", ".join(sorted("/".join(map(str, each)) for each in sources)[:3])
        raise UsageError(f"{path} holds several sources: {told}", fix="give one of them")
    if not found:
        raise UsageError(f"{path} holds no explanation", why="records have index and description")
    return found


def _records(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file: one a line, or all in one list."""
    try:
        with (
            gzip.open(file, "rt", encoding="utf-8")
            if file.suffix == ".gz"
            else file.open(encoding="utf-8") as lines
        ):
            while line := lines.readline(_LONGEST_LINE):
                if len(line) == _LONGEST_LINE:
                    raise ValueError("a line is too long")
                if line.strip():
                    value = json.loads(line)
                    for each in value if isinstance(value, list) else [value]:
                        if not isinstance(each, dict):
                            raise ValueError("expected objects")
                        yield each
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorruptError(f"{file} is not what Neuronpedia writes: {error}") from None


def _feature(index: FeatureIndex, row: dict[str, Any]) -> dict[str, Any]:
    edges = bin_edges()
    first, counts = row["first_bin"], row["histogram"] or []
    middles = np.sqrt(edges[1:] * edges[:-1])[first : first + len(counts)]
    top, bottom = row["top_logits"] or [], row["bottom_logits"] or []
    near = row["nearest"] or []
    return {
        "index": str(row["latent"]),
        "maxActApprox": row["max_act"],
        "frac_nonzero": row["density"],
        "pos_str": [n["token"] for n in top],
        "pos_values": [n["logit"] for n in top],
        "neg_str": [n["token"] for n in bottom],
        "neg_values": [n["logit"] for n in bottom],
        "topkCosSimIndices": [index.shape.index_of(n["feature"]) for n in near],
        "topkCosSimValues": [n["cosine"] for n in near],
        "freq_hist_data_bar_heights": counts,
        "freq_hist_data_bar_values": middles.tolist(),
        "hasVector": False,
        "vector": [],
    }


def _activation(latent: int, number: int, example: Any) -> dict[str, Any]:
    return {
        "id": f"hsae{latent:012d}{number:04d}",
        "index": str(latent),
        "tokens": example.tokens,
        "values": example.acts,
        "maxValue": example.act,
        "maxValueTokenIndex": example.at,
        "minValue": min(example.acts),
        "binContains": 0.2 if example.band else -1,
        "binMin": None,
        "binMax": None,
    }


def _explanation(index: FeatureIndex, row: dict[str, Any]) -> dict[str, Any]:
    given = index.labels.get(row["feature"])
    return {
        "index": str(row["latent"]),
        "description": index.label_of(row),
        "explanationModelName": given.source if given else None,
        "typeName": None if given else _TYPE,
    }


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    content = gzip.compress(text, 5, mtime=0) if path.suffix == ".gz" else text

    def write(beside: Path) -> None:
        beside.write_bytes(content)

    write_atomic(path, write)
