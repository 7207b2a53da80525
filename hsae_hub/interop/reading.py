"""From a foreign folder to an SAE of ours, checked: which format it is, and whether all of it fits together."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hsae_hub import __version__
from hsae_hub.architectures import SAE, architecture, parse_config
from hsae_hub.artifact import ArtifactConfig, ArtifactInfo, ImportedConfig, dtype_name, file_info
from hsae_hub.errors import CorruptError, NotFoundError, UsageError
from hsae_hub.interop.formats import FORMATS, check_pickle, format_named, needs, recognise_folder
from hsae_hub.interop.told import Told

_NORM_TOLERANCE = 1e-3
_TYPE = "it is not told in which type the model ran; float32 is written"
_LAST_NAMES = 3


class Imported(NamedTuple):
    """A foreign SAE, read and checked."""

    sae: SAE[Any]
    config: ArtifactConfig
    """As its `config.json` here would be, without files."""


def read_foreign(
    path: Path,
    *,
    ref: str | None = None,
    where: str | None = None,
    source: str | None = None,
    allow_pickle: bool = False,
    named: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> Imported:
    """Reads an SAE of another toolkit from a folder, or from a file where one holds an SAE.

    `ref` is what the user wrote, `where` its full name, from which some formats tell model and place, and `source`
    what is recorded of where it came from; without them they are the path, whole, and its last parts. `named` is a
    format's name, for a folder that could be several.

    Raises:
        NotFoundError: it is in none of the formats, or a file is missing.
        UsageError: no architecture here computes the same, or there is no such format.
        DeniedError: it is a pickle, and `allow_pickle` is not set.
        CorruptError: its files do not hold what the format says.
        ResourceError: a package is missing that reads it.
    """
    full = str(path.resolve())
    found = recognise_folder(path) if named is None else format_named(named)
    if found is None:
        raise NotFoundError(
            f"{path} holds no SAE in a format that is known here",
            why=f"neither this package's, nor that of {', '.join(f.title for f in FORMATS.values())}",
        )
    check_pickle(found, ref or str(path), allow_pickle)
    if path.is_file() and not found.one_file:
        raise UsageError(f"{path} is a file; {found.title} needs its folder", fix=str(path.parent))
    told: Told = import_module(f"hsae_hub.interop.{found.module}").read(path, where or full)
    sae = _built(told, str(path))
    sae = sae.to(device=device, dtype=dtype).requires_grad_(False).eval()
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    config = ArtifactConfig(
        sae=sae.config,
        dtype=dtype_name(sae.dtype),
        model=told.model,
        hookpoint=told.hookpoint,
        tokens=told.tokens,
        imported=ImportedConfig(
            format=found.name,
            source=source or "/".join(Path(full).parts[-_LAST_NAMES:]),
            files={
                p.name if p == path else p.relative_to(path).as_posix(): file_info(p)
                for p in sorted(files)
                if p == path or needs(found, p.relative_to(path).as_posix())
            },
            notes=[*told.notes, *([_TYPE] if told.model is not None else []), *_norm_note(sae)],
            written_by=f"hsae-hub {__version__}",
        ),
        files={},
    )
    sae.info = ArtifactInfo(config, None, ref or str(path))
    return Imported(sae, config)


def _built(told: Told, where: str) -> SAE[Any]:
    """An SAE with the weights, which have to be those of its config."""
    widths = told.tensors.get("W_enc")
    shape = {}
    if widths is not None and "d_in" not in told.config:
        shape["d_in"] = widths.shape[0]
        if "n_parents" not in told.config:
            shape["d_sae"] = widths.shape[1]
    try:
        config = parse_config({**shape, **told.config})
    except UsageError as error:
        raise CorruptError(f"{where}: {error}", fix=error.fix) from None
    with torch.device("meta"):
        sae = architecture(config.architecture)(config)
    expected = sae.weights()
    if unfit := sorted(told.tensors.keys() ^ expected.keys()):
        raise CorruptError(f"{where}: tensor {unfit[0]!r} is {_MISSING[unfit[0] in expected]}")
    for name, tensor in told.tensors.items():
        if tensor.shape != expected[name].shape or not tensor.is_floating_point():
            raise CorruptError(
                f"{where}: {name} is {tensor.dtype} of shape {list(tensor.shape)}, but its config gives "
                f"floats of {list(expected[name].shape)}"
            )
    sae = sae.to(dtype=next(iter(told.tensors.values())).dtype).to_empty(device="cpu")
    sae.reset_counters()
    for name, tensor in sae.weights().items():
        tensor.copy_(told.tensors[name])
    threshold = getattr(sae, "threshold", None)
    if threshold is not None:  # a negative one lets nothing through that relu would not stop
        threshold.detach().clamp_(min=0)
    return sae


_MISSING = {True: "missing", False: "unknown"}


def _norm_note(sae: SAE[Any]) -> list[str]:
    """Decoder rows of other norms than 1 are kept as they are; people expect to be told."""
    if not isinstance(getattr(sae, "W_dec", None), torch.Tensor):
        return []
    norms = sae.W_dec.detach().float().norm(dim=-1)
    low, high = float(norms.min()), float(norms.max())
    if 1 - _NORM_TOLERANCE <= low and high <= 1 + _NORM_TOLERANCE:
        return []
    return [
        f"decoder rows have norms from {low:.3g} to {high:.3g}, as in the file; nothing is folded"
    ]
