"""Loads an SAE from a folder that nobody vouches for: `reading` looks at it first, memory is taken afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hsae_hub.architectures import SAE, architecture
from hsae_hub.artifact.config import ArtifactConfig
from hsae_hub.artifact.files import CORE_REPORT, STATS, WEIGHTS
from hsae_hub.artifact.reading import CONFIG_LIMIT, check_files, read_config
from hsae_hub.artifact.saving import LatentTable
from hsae_hub.artifact.stored import StoredWeights
from hsae_hub.artifact.tensors import check_finite, is_aligned
from hsae_hub.errors import CorruptError, UsageError


class ArtifactInfo(NamedTuple):
    """What a loaded SAE knows of itself beside its weights."""

    config: ArtifactConfig
    stats: LatentTable | None
    ref: str
    """Where it was loaded from, as the user wrote it."""
    explained_variance: float | None = None
    """What a report beside it says that these very weights explain; None without one."""


class Artifact(NamedTuple):
    """A folder, read."""

    sae: SAE[Any]
    config: ArtifactConfig
    stats: LatentTable | None


def info_of(sae: SAE[Any]) -> ArtifactInfo | None:
    """What a loaded SAE knows of itself; None for one that was built."""
    return sae.info if isinstance(sae.info, ArtifactInfo) else None


def config_of(sae: SAE[Any]) -> ArtifactConfig | None:
    """The config that an SAE was loaded with; None for one that was built."""
    info = info_of(sae)
    return None if info is None else info.config


def weights_sha256(sae: SAE[Any]) -> str | None:
    """sha256 of the weight file of this package that an SAE came from; None where it came from none."""
    config = config_of(sae)
    file = None if config is None else config.files.get(WEIGHTS)
    return None if file is None else file.sha256


def read_artifact(
    folder: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    verify: bool = True,
    lazy: bool = False,
    ref: str | None = None,
) -> Artifact:
    """Loads an SAE; `dtype` None keeps the type on disk, `verify` False trusts hashes that were just checked.

    `lazy` leaves tables on disk of which a token reads a few rows; the rows used last are kept in memory, up to
    `STORED_BYTES`. What every token needs whole is used where it lies, if it lies as in memory, as in files written
    here, and copied otherwise. Hashes are not compared then, only sizes and shapes; but no value that is not finite
    gets into a result, since whatever is read is looked at first. The file must not be changed meanwhile: see
    `StoredWeights` for what happens to one that is cut.

    Raises:
        UsageError: `lazy` for another device than the CPU.
        NotFoundError: a file is missing.
        CorruptError: wrong size, hash, shape, dtype or format version, or a value that is not finite.
    """
    config = read_config(folder)
    if verify:
        check_files(folder, config, hashes=not lazy)
    if lazy and torch.device(device).type != "cpu":
        raise UsageError(
            f"lazy leaves weights on disk, for the CPU; got {device}",
            fix=f"load without lazy to have them on {device}",
        )
    with torch.device("meta"):
        sae = architecture(config.sae.architecture)(config.sae)
    sae = sae.to(dtype=dtype or getattr(torch, config.dtype))
    mapped = _map_weights(sae, folder / WEIGHTS) if lazy else set()
    _leave_meta(sae)
    with _opened(folder / WEIGHTS) as file:
        for name, tensor in sae.weights().items():
            if name not in mapped:
                loaded = file.get_tensor(name)
                check_finite(f"{folder / WEIGHTS}: {name}", loaded)
                tensor.copy_(loaded)
    sae.reset_counters()
    stats = _read_stats(folder, config) if STATS in config.files else None
    sae = sae.to(device=device).requires_grad_(False).eval()
    sae.info = ArtifactInfo(config, stats, ref or str(folder), _measured(folder, config))
    return Artifact(sae, config, stats)


def _map_weights(sae: SAE[Any], path: Path) -> set[str]:
    """Lets an SAE use weights where they lie in a file, as far as its results stay the same; gives their names."""
    stored = StoredWeights(path)
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in sae.weights()}
    tables = set(sae.tables) & tensors.keys()
    whole = {
        name
        for name, tensor in tensors.items()
        if name in sae._parameters and tensor.dtype == sae.dtype and is_aligned(tensor)
    } - tables
    for name in whole:
        check_finite(f"{path}: {name}", tensors[name])
    sae.map_weights({name: tensors[name] for name in tables | whole})

    sae.leave_stored(
        sorted(tables),
        read=lambda name, *asked: stored.read_blocks(name, tensors[name].dtype, *asked),
        check=stored.check,
    )
    return tables | whole


def _leave_meta(sae: SAE[Any]) -> None:
    """Gives memory to everything that has none."""
    for module in sae.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.is_meta:
                module._parameters[name] = torch.nn.Parameter(
                    torch.empty_like(parameter, device="cpu")
                )
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise CorruptError(f"{path} cannot be read: {error}") from None


def _read_stats(folder: Path, config: ArtifactConfig) -> LatentTable:
    with _opened(folder / STATS) as file:
        if set(file.keys()) != {"p999", "density"}:
            raise CorruptError(f"{folder / STATS}: expected the tensors p999 and density")
        tensors = {name: file.get_tensor(name) for name in ("p999", "density")}
        tokens = str((file.metadata() or {}).get("tokens", ""))
    d_sae = config.sae.shape().d_sae
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != (d_sae,):
            raise CorruptError(
                f"{folder / STATS}: {name} has shape {list(tensor.shape)}, expected [{d_sae}]"
            )
        check_finite(f"{folder / STATS}: {name}", tensor)
    if not tokens.isdecimal():
        raise CorruptError(f"{folder / STATS}: its metadata does not say how many tokens it saw")
    return LatentTable(tensors["p999"], tensors["density"], int(tokens))


def _measured(folder: Path, config: ArtifactConfig) -> float | None:
    """What `eval/core.json` says, which is only a hint: a file that cannot be read says nothing."""
    path = folder / CORE_REPORT
    if not path.is_file() or path.stat().st_size > CONFIG_LIMIT:
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        same = report["weights"]["sae"] == config.files[WEIGHTS].sha256
        return float(report["saes"]["sae"]["explained_variance"]) if same else None
    except (ValueError, TypeError, KeyError):
        return None
