"""Labels that people or models gave, in a table beside the index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hsae_hub.artifact import write_atomic
from hsae_hub.errors import CorruptError

LABELS = "labels.parquet"
_SCHEMA = pa.schema(
    [
        ("feature", pa.string()),
        ("label", pa.string()),
        ("source", pa.string()),
        ("score", pa.float64()),
    ]
)
_LARGEST = 1 << 30  # bytes


class Label(NamedTuple):
    """Words for a feature."""

    label: str
    source: str
    """Who gave them."""
    score: float | None = None
    """Balanced accuracy, 0 to 1, of telling by them where the feature acts; None where that was not measured."""


def read_labels(folder: Path) -> dict[str, Label]:
    """The labels of an index by feature; none where there is no file.

    Raises:
        CorruptError: it is no such table.
    """
    path = folder / LABELS
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _LARGEST or not pq.read_schema(path).equals(_SCHEMA):
            raise CorruptError(f"{path} is not a table of labels")
        rows = pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise CorruptError(f"{path} is not Parquet: {str(error).splitlines()[0]}") from None
    return {row["feature"]: Label(row["label"], row["source"], row["score"]) for row in rows}


def write_labels(folder: Path, labels: Mapping[str, Label]) -> None:
    """Writes all labels of an index."""
    rows = [{"feature": name, **label._asdict()} for name, label in labels.items()]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    write_atomic(folder / LABELS, lambda path: pq.write_table(table, path, compression="zstd"))
