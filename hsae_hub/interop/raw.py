"""Files of strangers: sizes first, memory afterwards, and nothing that could run."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsae_hub.artifact import read_object
from hsae_hub.artifact.tensors import check_finite
from hsae_hub.errors import CorruptError, NotFoundError

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_UNREADABLE = (
    ValueError,
    TypeError,
    EOFError,
    OSError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
)
_GAIN = 20
"""How many times its own size a compressed file may unpack to; weights hardly compress."""

Spec = Mapping[str, tuple[str, str]]
"""A foreign tensor's name → its name here and its axes there: `d` is d_in, `F` d_sae, `n` parents of a tree."""
_TURNED = {"W_enc": ("F d", "n d"), "W_dec": ("d F", "d n")}
"""Axes of the matrices that are the other way round here."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of at most 1 MiB.

    Raises:
        NotFoundError: there is no such file.
        CorruptError: it is too large, not JSON, or no object.
    """
    _check_there(path)
    return read_object(path)


def text_of(data: Mapping[str, Any], key: str) -> str | None:
    """The text under a key; None where there is none, or something else."""
    value = data.get(key)
    return value if isinstance(value, str) and value else None


def number_of(data: Mapping[str, Any], key: str, where: str) -> int:
    """The whole number from 1 on under a key; a scalar tensor or 32.0 counts as one.

    Raises:
        CorruptError: there is none.
    """
    value = data.get(key)
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CorruptError(f"{where}: {key} is {value!r}, expected a whole number from 1 on")
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, whose header the library compares with the file's size.

    Raises:
        NotFoundError: there is no such file.
        CorruptError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    _check_there(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise CorruptError(f"{path} is not a safetensors file: {error}") from None


def read_npz(path: Path) -> dict[str, Tensor]:
    """Every array of an npz file; each array's header is compared with its place in the file before it is read.

    Raises:
        NotFoundError: there is no such file.
        CorruptError: it is damaged, holds Python objects, or unpacks to far more than its size.
    """
    _check_there(path)
    found = {}
    with _zip(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            try:
                with archive.open(member) as file:
                    _check_npy(file, member.file_size)
                    file.seek(0)
                    found[name] = torch.from_numpy(np.lib.format.read_array(file))
            except _UNREADABLE as error:
                raise CorruptError(f"{path}: {member.filename} cannot be read: {error}") from None
    return found


def _check_npy(file: Any, size: int) -> None:
    """Raises ValueError for objects, and for a header that promises other bytes than there are."""
    readers: dict[tuple[int, int], Callable[[Any], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"npy version {version}")
    shape, _, dtype = readers[version](file)
    if dtype.kind != "f":
        raise ValueError(f"its type is {dtype}, expected floats")
    count = 1
    for length in shape:
        count *= length
    if min(shape, default=0) < 0 or count * dtype.itemsize != size - file.tell():
        raise ValueError(f"its header says {list(shape)} of {dtype}, its size is {size} bytes")


def read_pickle(path: Path) -> dict[str, Any]:
    """What a PyTorch file holds, with tensors, numbers and texts as the only things that it may.

    Raises:
        NotFoundError: there is no such file.
        CorruptError: it is damaged, holds anything else, or tensors larger than what is stored of them.
    """
    _check_there(path)
    with _zip(path):
        pass
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in as many ways as there are bytes
        raise CorruptError(
            f"{path} cannot be read without running code: {str(error).splitlines()[0]}",
            why="only tensors, numbers and texts are taken from a pickle",
        ) from None
    if not isinstance(data, dict):
        raise CorruptError(f"{path} holds a {type(data).__name__}, expected a state dict")
    for name, value in data.items():
        if isinstance(value, Tensor):
            stored = value.untyped_storage().nbytes() if value.layout == torch.strided else 0
            if stored < value.numel() * value.element_size():
                raise CorruptError(
                    f"{path}: {name} is {list(value.shape)}, of which {stored} bytes are stored"
                )
    return {str(name): value for name, value in data.items()}


def check_gain(where: str, size: int, unpacked: int) -> None:
    """Raises CorruptError where files would unpack to far more bytes than they have."""
    if unpacked > _GAIN * size:
        raise CorruptError(f"{where} has {size} bytes and would unpack to {unpacked}")


def take(
    raw: Mapping[str, Any], spec: Spec, where: str, *, ignored: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The tensors that a format has, by their names and orientation here, all of one dtype.

    Raises:
        CorruptError: one is missing, unknown, of another shape, no floats, or not finite.
    """
    extra = raw.keys() - spec.keys() - set(ignored)
    missing = [name for name in spec if name not in raw]
    if extra or missing:
        what = f"lacks tensor {missing[0]!r}" if missing else f"has unknown tensor {min(extra)!r}"
        raise CorruptError(f"{where} {what}; expected {', '.join(spec)}")
    sizes: dict[str, tuple[int, str]] = {}
    for name, (_, axes) in spec.items():
        tensor = raw[name]
        if not isinstance(tensor, Tensor) or tensor.dtype not in _FLOATS:
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CorruptError(f"{where}: {name} is {kind}, expected a tensor of floats")
        letters = axes.split()
        if tensor.ndim != len(letters) or 0 in tensor.shape:
            raise CorruptError(
                f"{where}: {name} has shape {list(tensor.shape)}, expected [{', '.join(letters)}]"
            )
        for letter, length in zip(letters, tensor.shape, strict=True):
            known, by = sizes.setdefault(letter, (length, name))
            if known != length:
                raise CorruptError(
                    f"{where}: {name} has shape {list(tensor.shape)}, but by {by} its {letter} is {known}"
                )
        check_finite(f"{where}: {name}", tensor)
    dtype = torch.float16
    for number, name in enumerate(spec):
        dtype = torch.promote_types(dtype, raw[name].dtype) if number else raw[name].dtype
    return {
        new: (raw[old].T if axes in _TURNED.get(new, ()) else raw[old]).to(dtype)
        for old, (new, axes) in spec.items()
    }


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise NotFoundError(f"{path} is missing", fix=f"pull or copy {path.name} too")


def _zip(path: Path) -> zipfile.ZipFile:
    """Opens a zip file that does not unpack to far more than it is."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CorruptError(f"{path} is damaged: {error}") from None
    try:
        unpacked = sum(member.file_size for member in archive.infolist())
        check_gain(str(path), path.stat().st_size, unpacked)
    except CorruptError:
        archive.close()
        raise
    return archive
