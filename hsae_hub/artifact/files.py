"""Writes an SAE to a folder: each file beside its name first, then renamed, the config last."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub import __version__
from hsae_hub.architectures import SAE
from hsae_hub.artifact.config import (
    ArtifactConfig,
    FileInfo,
    HookpointConfig,
    ImportedConfig,
    ModelConfig,
    TokensConfig,
    TrainingConfig,
    VocabularyConfig,
)
from hsae_hub.artifact.tensors import write_tensors
from hsae_hub.errors import CorruptError, UsageError

_UMASK = os.umask(0)
os.umask(_UMASK)

CONFIG = "config.json"
WEIGHTS = "sae.safetensors"
STATS = "stats.safetensors"
REPORTS = "eval"
"""Folder of what was measured."""
CORE_REPORT = f"{REPORTS}/core.json"
"""Reconstruction and loss, which every card has."""


class LatentTable(NamedTuple):
    """What is known of every latent from a sample of tokens."""

    p999: Float[Tensor, " d_sae"]
    """99.9th percentile of act / ‖x‖ over the tokens where the latent is positive; 0 where it never was."""
    density: Float[Tensor, " d_sae"]
    """Share of tokens on which the latent is not zero, 0 to 1."""
    tokens: int
    """Size of the sample."""


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, write: Callable[[Path], None] | str) -> None:
    """Lets `write` make a file beside `path` (or writes the text), flushes it to disk, then renames it to `path`."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        if isinstance(write, str):
            beside.write_text(write, encoding="utf-8")
        else:
            write(beside)
        beside.chmod(0o666 & ~_UMASK)  # safetensors makes files that only their owner can read
        flush(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def folder_atomic(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a folder beside `out` to fill; left without an error it becomes `out`, else it goes.

    With `overwrite` its files take the place of those of the same name in an `out` that is there, other files stay.

    Raises:
        UsageError: `out` is a file, or a folder that is not empty and not to be overwritten.
    """
    out = out.absolute()
    taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if taken and not (overwrite and out.is_dir()):
        raise UsageError(
            f"{out} is not {'empty' if out.is_dir() else 'a folder'}",
            fix="give another folder" + (", or --overwrite" if out.is_dir() else ""),
        )
    beside = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
        files = sorted(path for path in beside.rglob("*") if path.is_file())
        for path in files:
            flush(path)
        if not taken:
            beside.rename(out)
        else:
            for path in sorted(files, key=lambda path: path.suffix == ".json"):  # configs last
                place = out / path.relative_to(beside)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
        flush(out)
        flush(out.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def flush(path: Path) -> None:
    """Makes a file's bytes, or the names in a folder, last over a power cut, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_sae(
    sae: SAE[Any],
    folder: Path,
    *,
    model: ModelConfig | None = None,
    hookpoint: HookpointConfig | None = None,
    tokens: TokensConfig | None = None,
    vocabulary: VocabularyConfig | None = None,
    training: TrainingConfig | None = None,
    imported: ImportedConfig | None = None,
    baseline: str | None = None,
    stats: LatentTable | None = None,
) -> ArtifactConfig:
    """Writes an SAE with what is known about it into a folder, which is made if it is not there.

    Raises:
        CorruptError: a weight is not finite; nothing is written.
    """
    weights = {
        name: tensor.to("cpu", sae.dtype).contiguous() for name, tensor in sae.weights().items()
    }
    for name, tensor in weights.items():
        check_finite(name, tensor)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format_version": "1", "written_by": f"hsae-hub {__version__}"}
    write_atomic(folder / WEIGHTS, lambda path: write_tensors(path, weights, metadata))
    names = [WEIGHTS]
    if stats is None:
        (folder / STATS).unlink(missing_ok=True)
    else:
        table = {"p999": stats.p999.float().cpu(), "density": stats.density.float().cpu()}
        counted = metadata | {"tokens": str(stats.tokens)}
        write_atomic(folder / STATS, lambda path: write_tensors(path, table, counted))
        names.append(STATS)
    config = ArtifactConfig(
        sae=sae.config,
        dtype=str(sae.dtype).removeprefix("torch."),  # type: ignore[arg-type]
        model=model,
        hookpoint=hookpoint,
        tokens=tokens,
        vocabulary=vocabulary,
        training=training,
        imported=imported,
        baseline=baseline,
        files={name: file_info(folder / name) for name in names},
    )
    write_atomic(folder / CONFIG, config.to_json())
    return config


def file_info(path: Path) -> FileInfo:
    """Hash and size of a file."""
    return FileInfo(sha256=sha256_file(path), size=path.stat().st_size)


def check_finite(name: str, tensor: Float[Tensor, ...]) -> None:
    """Raises CorruptError when a tensor holds a value that is not finite."""
    ends = torch.aminmax(tensor)  # a nan anywhere is both; one pass without a copy
    if not (ends.min.isfinite() and ends.max.isfinite()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise CorruptError(
            f"{name} has {bad} of {tensor.numel()} values that are not finite",
            why="training diverged, or the file is damaged",
        )
