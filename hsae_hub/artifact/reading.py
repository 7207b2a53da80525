"""Reads an SAE from a folder that nobody vouches for: sizes, hashes and shapes first, memory afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hsae_hub.architectures import SAE, architecture
from hsae_hub.artifact.collection import Manifest, is_manifest, manifest_from_data
from hsae_hub.artifact.config import ArtifactConfig, config_from_data
from hsae_hub.artifact.files import (
    CONFIG,
    CORE_REPORT,
    STATS,
    WEIGHTS,
    LatentTable,
    check_finite,
    sha256_file,
)
from hsae_hub.artifact.migrations import migrate
from hsae_hub.artifact.stored import StoredWeights
from hsae_hub.artifact.tensors import is_aligned
from hsae_hub.errors import CorruptError, NotFoundError, UsageError

CONFIG_LIMIT = 1 << 20
"""Largest `config.json` that is read, in bytes."""
HEADER_LIMIT = 1 << 24
"""Largest safetensors header that is read, in bytes."""
_DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


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


def read_config(folder: Path) -> ArtifactConfig:
    """Reads and checks `config.json`.

    Raises:
        NotFoundError: the folder has none, or it holds several SAEs, in folders of their own.
        CorruptError: it is not JSON, or not of a format that this release reads.
    """
    path = folder / CONFIG
    data = _config_data(path)
    if is_manifest(data):
        names = list(manifest_from_data(data, str(path)).saes)
        raise NotFoundError(
            f"{folder} is a collection, not one SAE",
            why=f"its SAEs: {', '.join(names)}",
            fix="\n".join(str(folder / name) for name in names[:3]),
        )
    return config_from_data(migrate(data, str(path)), str(path))


def read_manifest(folder: Path) -> Manifest | None:
    """Reads and checks the `config.json` of a collection; None if it is that of one SAE.

    Raises:
        NotFoundError: the folder has none.
        CorruptError: it is not JSON, or not of a format that this release reads.
    """
    path = folder / CONFIG
    data = _config_data(path)
    return manifest_from_data(data, str(path)) if is_manifest(data) else None


def _config_data(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFoundError(f"no {CONFIG} in {path.parent}", why="it is not a saved SAE")
    return read_object(path)


def read_object(path: Path, most: int = CONFIG_LIMIT) -> dict[str, Any]:
    """The object in a JSON file of at most so many bytes.

    Raises:
        CorruptError: it is too large, not JSON, or no object.
    """
    if (size := path.stat().st_size) > most:
        raise CorruptError(f"{path} has {size} bytes, expected at most {most >> 20} MiB")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise CorruptError(f"{path} holds a {type(data).__name__}, expected an object")
    return data


def check_files(folder: Path, config: ArtifactConfig, *, hashes: bool = True) -> None:
    """Compares size and sha256 of every weight file with the config, then shapes and dtypes of their headers.

    Without `hashes` nothing is read but the headers.

    Raises:
        NotFoundError: a file is missing.
        CorruptError: a file is not what the config says, with both values.
    """
    if WEIGHTS not in config.files:
        raise CorruptError(f"{folder / CONFIG}: files does not name {WEIGHTS}")
    for name, expected in config.files.items():
        path = folder / name
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CorruptError(f"{folder / CONFIG}: files names {name!r}, expected *.safetensors")
        if not path.is_file():
            raise NotFoundError(f"{path} is missing", fix=f"pull or copy {name} again")
        size = path.stat().st_size
        if size != expected.size:
            raise CorruptError(
                f"{path} has {size} bytes, expected {expected.size}", fix="pull it again"
            )
        digest = sha256_file(path) if hashes else expected.sha256
        if digest != expected.sha256:
            raise CorruptError(
                f"{path} has sha256 {digest[:12]}…, expected {expected.sha256[:12]}…",
                why="its bytes changed after it was saved",
                fix="pull it again",
            )
    with (folder / WEIGHTS).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(HEADER_LIMIT, config.files[WEIGHTS].size - 8):
            raise CorruptError(f"{folder / WEIGHTS}: a header of {length} bytes cannot be")
        header = file.read(length)
    check_header(header, config, str(folder / WEIGHTS))


def check_header(header: bytes, config: ArtifactConfig, where: str) -> None:
    """Compares a safetensors header (its JSON) with the tensors that the config's architecture has.

    Raises:
        CorruptError: tensors missing or too many, a shape or a dtype that the config does not give.
    """
    try:
        tensors = {k: v for k, v in json.loads(header).items() if k != "__metadata__"}
        found = {name: (tuple(t["shape"]), _DTYPES.get(t["dtype"])) for name, t in tensors.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CorruptError(f"{where}: its header is not that of a safetensors file") from None
    with torch.device("meta"):
        expected = architecture(config.sae.architecture)(config.sae).weights()
    if extra := sorted(found.keys() ^ expected.keys()):
        missing = [name for name in extra if name in expected]
        raise CorruptError(
            f"{where}: {'lacks' if missing else 'has unknown'} tensor {(missing or extra)[0]!r}; "
            f"expected {', '.join(expected)}"
        )
    for name, tensor in expected.items():
        shape, dtype = found[name]
        if shape != tuple(tensor.shape):
            raise CorruptError(
                f"{where}: {name} has shape {list(shape)}, but the config gives {list(tensor.shape)}"
            )
        if dtype != config.dtype:
            raise CorruptError(f"{where}: {name} is {dtype}, but the config says {config.dtype}")


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
    from safetensors import safe_open

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
    with safe_open(folder / WEIGHTS, framework="pt") as file:
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
    from safetensors import safe_open

    stored = StoredWeights(path)
    with safe_open(path, framework="pt") as file:
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


def _read_stats(folder: Path, config: ArtifactConfig) -> LatentTable:
    from safetensors import safe_open

    with safe_open(folder / STATS, framework="pt") as file:
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
