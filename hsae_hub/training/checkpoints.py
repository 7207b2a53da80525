"""Checkpoints: folders of safetensors and one JSON file that appear whole or not at all."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from hsae_hub import __version__
from hsae_hub.artifact import FileInfo, flush, sha256_file
from hsae_hub.artifact.files import file_info

STATE = "state.json"
FORMAT = 3
KEPT = 2
"""Checkpoints that are kept: the newest and one to fall back on."""

_log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """What a run needs to go on as if it had not stopped."""

    step: int
    """Steps done."""
    values: dict[str, Any]
    """Everything that is not a tensor, as JSON."""
    tensors: dict[str, dict[str, Tensor]]
    """Tensors by the file that they are in and their name."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes a checkpoint into a folder of checkpoints, then removes all but the newest ones.

    It is written beside its place, flushed to disk and renamed, so that a kill at any moment leaves the ones before it.
    """
    from safetensors.torch import save_file

    place = folder / f"{checkpoint.step:08d}"
    beside = folder / f".{place.name}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    files = {}
    for name, tensors in checkpoint.tensors.items():
        path = beside / f"{name}.safetensors"
        save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, path)
        flush(path)
        files[path.name] = file_info(path).model_dump()
    head = {"format": FORMAT, "written_by": f"hsae-hub {__version__}", "step": checkpoint.step}
    state = {**head, "values": checkpoint.values, "files": files}
    (beside / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    flush(beside / STATE)
    flush(beside)
    if place.exists():  # damaged, or the run would have begun from it
        shutil.rmtree(place)
    beside.rename(place)
    flush(folder)
    for old in sorted(_places(folder))[:-KEPT]:
        shutil.rmtree(old)
    return place


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and one line for each newer one that is not."""
    skipped: list[str] = []
    for place in sorted(_places(folder), reverse=True):
        try:
            return _read(place), skipped
        except (ValueError, KeyError, TypeError, OSError) as error:
            skipped.append(f"checkpoint {place.name} is damaged and was skipped: {error}")
            _log.warning(skipped[-1])
    return None, skipped


def _places(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def _read(place: Path) -> Checkpoint:
    from safetensors.torch import load_file

    state = json.loads((place / STATE).read_text(encoding="utf-8"))
    if state["format"] != FORMAT:
        raise ValueError(f"format {state['format']}, expected {FORMAT}")
    tensors = {}
    for name, recorded in state["files"].items():
        expected = FileInfo(**recorded)
        path = place / name
        if path.stat().st_size != expected.size or sha256_file(path) != expected.sha256:
            raise ValueError(f"{name} is not the file that was written")
        tensors[path.stem] = load_file(path)
    return Checkpoint(state["step"], state["values"], tensors)
