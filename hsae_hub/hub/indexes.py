"""The index of an SAE's features from wherever it lies; no tensors are needed for it."""

from __future__ import annotations

from pathlib import Path

from hsae_hub.features import FeatureIndex
from hsae_hub.hub.fetching import OnProgress
from hsae_hub.hub.hub import Hub, place_of
from hsae_hub.hub.pull import pull
from hsae_hub.hub.refs import Ref


def load_features(
    ref: str | Path,
    *,
    hub: Hub | str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> FeatureIndex:
    """Opens the index of an SAE in a folder, or on a hub after pulling it with the SAE; `hub` as for `Hub`.

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
    place = place_of(hub)
    return FeatureIndex.open(
        pull(place, parsed, only_sae=True, features=True, on_progress=on_progress).folder
    )
