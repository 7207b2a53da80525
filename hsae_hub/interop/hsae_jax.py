"""The weights that the authors of Muchane et al. 2025 trained: one step of an Orbax checkpoint.

Orbax keeps each array as zarr in a small database; tensorstore reads that, without JAX. Their arrays hold a decoder
that is the transpose of ours, and call a parent expert, and its children atoms.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hsae_hub.errors import CorruptError, ResourceError, UsageError
from hsae_hub.interop.raw import check_gain, number_of, read_json, take
from hsae_hub.interop.told import Told

_MODEL = "model"
_SIZES = "hyperparameters/metadata"
_SPEC = {
    "top_level_autoencoder.encoder": ("W_enc", "n d"),
    "top_level_autoencoder.decoder": ("W_dec", "d n"),
    "W_down": ("W_down", "n s d"),
    "W_up": ("W_up", "n d s"),
    "encoder_weights": ("child_W_enc", "n m s"),
    "decoder_weights": ("child_W_dec", "n s m"),
}
_OFFSET = "top_level_autoencoder.offset"


def read(folder: Path, where: str) -> Told:
    """See `Format.module`."""
    sizes = read_json(folder / _SIZES)
    names = {"d": "input_dim", "n": "num_experts", "m": "atoms_per_subspace", "s": "subspace_dim"}
    lengths = {a: number_of(sizes, name, str(folder / _SIZES)) for a, name in names.items()}
    k = number_of(sizes, "k", str(folder / _SIZES))
    biased = sizes.get("use_bias") is True
    spec = _SPEC | ({"bias": ("b_dec", "d")} if biased else {})
    model = folder / _MODEL
    shapes = {n: [lengths[axis] for axis in axes.split()] for n, (_, axes) in spec.items()}
    check_gain(
        str(model),
        sum(p.stat().st_size for p in model.rglob("*") if p.is_file()),
        sum(4 * math.prod(shape) for shape in shapes.values()),
    )
    raw = _arrays(model, {**shapes, _OFFSET: []})
    offset = float(raw.pop(_OFFSET))
    if not math.isclose(offset, lengths["d"] ** -0.5, rel_tol=1e-6):
        raise UsageError(
            f"{model}: its threshold is {offset:g}, expected 1/√d_in = {lengths['d'] ** -0.5:g}"
        )
    tensors = take(raw, spec, str(model))
    config = {
        "architecture": "hsae",
        "n_parents": lengths["n"],
        "n_children": lengths["m"],
        "d_subspace": lengths["s"],
        "k": k,
        "bias": biased,
        "variant": "released",
    }
    notes = (
        "the files name neither model nor place; the paper's is layer 20 of google/gemma-2-2b",
        "layer 20 is the output of model.layers.19 or of model.layers.20: its code counts in both ways. Take the one "
        "with the larger explained variance",
    )
    return Told(config, tensors, notes)


def _arrays(folder: Path, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Reads arrays by name, once all of them have the shapes that they should have."""
    try:
        import tensorstore
    except ImportError:
        raise ResourceError(
            "an Orbax checkpoint is read with tensorstore", fix="pip install 'hsae-hub[jax]'"
        ) from None
    base = f"file://{folder.resolve()}/"
    opened: dict[str, Any] = {}
    for name, shape in shapes.items():
        if (folder / name / ".zarray").is_file():  # a folder an array, as Orbax wrote before 2024
            store = {"driver": "file", "path": f"{folder.resolve() / name}/"}
        else:
            store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
        spec = {"driver": "zarr", "kvstore": store}
        try:
            opened[name] = tensorstore.open(spec, open=True, read=True).result()
        except ValueError as error:
            raise CorruptError(f"{folder} lacks array {name!r}: {str(error)[:80]}") from None
        if list(opened[name].shape) != shape:
            raise CorruptError(
                f"{folder}: {name} has shape {list(opened[name].shape)}, but its hyperparameters give {shape}"
            )
    return {name: torch.from_numpy(array.read().result().copy()) for name, array in opened.items()}
