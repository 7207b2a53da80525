"""The hidden folder of an index that is being made: from its one file a killed run goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hsae_hub.activations import StreamState
from hsae_hub.artifact import ModelConfig, write_atomic
from hsae_hub.errors import CorruptError, UsageError
from hsae_hub.features.keeping import Arrays
from hsae_hub.recipes import DataConfig, differing, keys_of

WORK = ".work"
STATE = "state.safetensors"


class IndexPlan(BaseModel):
    """Everything that an index follows from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str
    """sha256 of the SAE's weights."""
    model: ModelConfig
    hookpoint: str
    data: DataConfig
    tokens: int
    top: int
    """Strongest contexts that are kept of each latent."""
    sampled: int
    """Contexts that are kept of each latent in its bands together."""
    seed: int
    sample_seed: int
    """Of text that the language model writes itself."""


class Progress(NamedTuple):
    """Where a pass stands."""

    gathered: Arrays
    corpus: StreamState


def save_progress(work: Path, plan: IndexPlan, progress: Progress) -> None:
    """Writes all of it in one moment."""
    tensors = {f"corpus.{name}": t.numpy() for name, t in progress.corpus.tensors.items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in progress.gathered.items()}
    told = {
        "plan": plan.model_dump_json(),
        "corpus": json.dumps(progress.corpus.values),
    }
    write_atomic(work / STATE, lambda path: save_file({**arrays, **tensors}, path, told))


def load_progress(work: Path, plan: IndexPlan) -> Progress | None:
    """Where a pass of the same plan stands; None where none has begun.

    Raises:
        UsageError: another index has begun there.
        CorruptError: the file is damaged.
    """
    import torch

    for folder in (work, work.parent):
        for torn in folder.glob(".*.partial"):
            torn.unlink()
    path = work / STATE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            told = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        before, values = json.loads(told["plan"]), json.loads(told["corpus"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise CorruptError(f"{path} is damaged: {error}", fix=f"remove {work}") from None
    found = differing(before, plan.model_dump(mode="json"), where="there", here="now")
    if found:
        raise UsageError(
            f"{work.parent} holds the beginning of another index; they differ in {keys_of(found)}",
            fix=f"go on as it was begun, remove {work}, or give another --out",
            problems=found,
        )
    tensors = {
        name.removeprefix("corpus."): torch.from_numpy(arrays.pop(name))
        for name in list(arrays)
        if name.startswith("corpus.")
    }
    return Progress(arrays, StreamState(values, tensors))


def clear(work: Path) -> None:
    """Takes away what a finished index does not need."""
    shutil.rmtree(work, ignore_errors=True)
