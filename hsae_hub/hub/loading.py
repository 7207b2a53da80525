"""An SAE from wherever it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hsae_hub.architectures import SAE
from hsae_hub.artifact import read_artifact
from hsae_hub.features import FeatureIndex
from hsae_hub.hub.hub import Hub
from hsae_hub.hub.pull import OnProgress, pull
from hsae_hub.hub.refs import Ref


def load(
    ref: str | Path,
    *,
    hub: Hub | str | Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    on_progress: OnProgress | None = None,
) -> SAE[Any]:
    """Loads an SAE from a folder, or from a hub after pulling and checking it; `hub` as for `Hub`.

    `dtype` None keeps the type on disk. What else is known of it (model, hookpoint, latents' strengths) is in `.info`.

    Raises:
        UsageError: `ref` is neither a folder nor `org/name[@revision][:subfolder]`.
        NotFoundError: it is not there.
        DeniedError: it may not be seen.
        CorruptError: wrong size, hash, shape, format version, or a value that is not finite.
        NetworkError: the hub cannot be reached and the cache does not hold it.
    """
    parsed = Ref.parse(ref)
    if parsed.folder is not None:
        return read_artifact(parsed.folder, device=device, dtype=dtype, ref=str(ref)).sae
    place = (hub if isinstance(hub, Hub) else Hub(hub)).place()
    pulled = pull(place, parsed, only_sae=True, on_progress=on_progress)
    return read_artifact(
        pulled.folder, device=device, dtype=dtype, verify=False, ref=str(parsed)
    ).sae


def load_features(
    ref: str | Path,
    *,
    hub: Hub | str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> FeatureIndex:
    """Opens the index of an SAE in a folder, or on a hub after pulling all that lies with it; `hub` as for `Hub`.

    Raises:
        UsageError: `ref` is neither a folder nor `org/name[@revision][:subfolder]`.
        NotFoundError: the SAE, or its index, is not there.
        DeniedError: it may not be seen.
        CorruptError: wrong bytes, or not an index that this release reads.
        NetworkError: the hub cannot be reached and the cache does not hold it.
    """
    parsed = Ref.parse(ref)
    if parsed.folder is not None:
        return FeatureIndex.open(parsed.folder)
    place = (hub if isinstance(hub, Hub) else Hub(hub)).place()
    return FeatureIndex.open(pull(place, parsed, on_progress=on_progress).folder)
