"""An SAE from wherever it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hsae_hub.architectures import SAE
from hsae_hub.artifact import read_artifact
from hsae_hub.hub.fetching import OnProgress
from hsae_hub.hub.foreign import ForeignSAE
from hsae_hub.hub.hub import Hub, place_of
from hsae_hub.hub.importing import fetch_foreign, is_ours
from hsae_hub.hub.pull import pull
from hsae_hub.hub.refs import Ref
from hsae_hub.interop import read_foreign, recognise_folder


def load(
    ref: str | Path,
    *,
    hub: Hub | str | Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    lazy: bool = False,
    allow_pickle: bool = False,
    on_progress: OnProgress | None = None,
) -> SAE[Any]:
    """Loads an SAE from a folder, or from a hub after pulling and checking it; `hub` as for `Hub`.

    `dtype` None keeps the type on disk. `lazy` leaves the tables there of which a token reads a few rows, those of
    experts among them: an SAE of any size opens at once, with the same results bit for bit, also in another `dtype`
    than the file's. The rows used last stay in memory, up to 256 MB; the file must not be changed while the SAE is in
    use. Hashes of a folder are not compared then (those of what is pulled are), but every value is looked at before it
    is used. What else is known of it (model, hookpoint, latents' strengths) is in `.info`.

    SAEs of other toolkits are read too (`interop`); one whose weights are a pickle only with `allow_pickle`, and even
    then nothing is taken from it but tensors, numbers and texts.

    Raises:
        UsageError: `ref` is neither a folder nor `org/name[@revision][:subfolder]`, or nothing here computes the same.
        NotFoundError: it is not there.
        DeniedError: it may not be seen, or is a pickle and `allow_pickle` is not set.
        CorruptError: wrong size, hash, shape, format version, or a value that is not finite.
        NetworkError: the hub cannot be reached and the cache does not hold it.
    """
    parsed = Ref.parse(ref)
    if parsed.folder is not None:
        return _from_folder(parsed.folder, str(ref), device, dtype, lazy, allow_pickle)
    place = place_of(hub)
    try:
        pulled = pull(place, parsed, only_sae=True, on_progress=on_progress)
    except ForeignSAE as found:
        return fetch_foreign(
            place,
            found,
            allow_pickle=allow_pickle,
            device=device,
            dtype=dtype,
            on_progress=on_progress,
        ).sae
    return read_artifact(
        pulled.folder, device=device, dtype=dtype, verify=False, lazy=lazy, ref=str(parsed)
    ).sae


def _from_folder(
    folder: Path, ref: str, device: str, dtype: torch.dtype | None, lazy: bool, allow_pickle: bool
) -> SAE[Any]:
    if is_ours(folder) or recognise_folder(folder) is None:
        return read_artifact(folder, device=device, dtype=dtype, lazy=lazy, ref=ref).sae
    return read_foreign(folder, ref=ref, allow_pickle=allow_pickle, device=device, dtype=dtype).sae
