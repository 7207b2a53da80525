"""Tensors as they are written: finite, and so that they can be used where they lie, mapped into memory.

huggingface's own writer lets data begin at any multiple of 8 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.artifact.config import Dtype
from hsae_hub.errors import CorruptError
from hsae_hub.ops import ALIGNED

_CODES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def dtype_name(dtype: torch.dtype) -> Dtype:
    """A type as configs name it."""
    return cast(Dtype, str(dtype).removeprefix("torch."))


def write_tensors(
    path: Path, tensors: Mapping[str, Float[Tensor, "..."]], metadata: Mapping[str, str]
) -> None:
    """Writes tensors, which have to lie contiguously in the CPU's memory, as a safetensors file.

    The format allows spaces after the header, but none between tensors: those whose size is no multiple of 64 bytes
    come last, and only they begin elsewhere.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    order = sorted(tensors, key=lambda name: -_alignment(tensors[name]))
    end = 0
    for name in order:
        start, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": _CODES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNED)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)


def is_aligned(tensor: Float[Tensor, "..."]) -> bool:
    """Whether a product with this tensor gives the same bits as with a copy of it."""
    return tensor.is_contiguous() and tensor.data_ptr() % ALIGNED == 0


def check_finite(name: str, tensor: Float[Tensor, ...]) -> None:
    """Raises CorruptError when a tensor holds a value that is not finite."""
    ends = torch.aminmax(tensor)  # a nan anywhere is both; one pass without a copy
    if not (ends.min.isfinite() and ends.max.isfinite()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise CorruptError(
            f"{name} has {bad} of {tensor.numel()} values that are not finite",
            why="training diverged, or the file is damaged",
        )


def _alignment(tensor: Tensor) -> int:
    """The largest power of two, up to 64, that divides a tensor's bytes."""
    return min(tensor.nbytes & -tensor.nbytes, ALIGNED)
