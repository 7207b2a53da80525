"""Looks at an SAE in a folder that nobody vouches for: sizes, hashes and shapes, before any tensor is made."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from hsae_hub.architectures import tensor_shapes
from hsae_hub.artifact.collection import Manifest, is_manifest, manifest_from_data
from hsae_hub.artifact.config import ArtifactConfig, config_from_data
from hsae_hub.artifact.files import CONFIG, WEIGHTS, sha256_file
from hsae_hub.artifact.migrations import migrate
from hsae_hub.errors import CorruptError, NotFoundError

CONFIG_LIMIT = 1 << 20
"""Largest `config.json` that is read, in bytes."""
HEADER_LIMIT = 1 << 24
"""Largest safetensors header that is read, in bytes."""
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


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
        CorruptError: tensors missing or too many, a shape or a dtype that the config does not give, or tensors that do
            not fill the file one after the other.
    """
    try:
        tensors = {k: v for k, v in json.loads(header).items() if k != "__metadata__"}
        found = {name: (tuple(t["shape"]), _DTYPES.get(t["dtype"])) for name, t in tensors.items()}
        lies = sorted((*map(int, t["data_offsets"]), name) for name, t in tensors.items())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CorruptError(f"{where}: its header is not that of a safetensors file") from None
    expected = tensor_shapes(config.sae)
    if extra := sorted(found.keys() ^ expected.keys()):
        missing = [name for name in extra if name in expected]
        raise CorruptError(
            f"{where}: {'lacks' if missing else 'has unknown'} tensor {(missing or extra)[0]!r}; "
            f"expected {', '.join(expected)}"
        )
    for name, shape in expected.items():
        has, dtype = found[name]
        if has != shape:
            raise CorruptError(
                f"{where}: {name} has shape {list(has)}, but the config gives {list(shape)}"
            )
        if dtype != config.dtype:
            raise CorruptError(f"{where}: {name} is {dtype}, but the config says {config.dtype}")
    ends = 0
    for *lie, name in lies:
        size = math.prod(expected[name]) * _BYTES[config.dtype]
        if lie != [ends, ends + size]:
            raise CorruptError(f"{where}: {name} lies at {lie}, expected {[ends, ends + size]}")
        ends += size
    if ends != (rest := config.files[WEIGHTS].size - 8 - len(header)):
        raise CorruptError(f"{where}: its tensors have {ends} bytes, the file {rest}")
