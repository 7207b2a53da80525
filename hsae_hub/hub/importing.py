"""An SAE of another toolkit from wherever it lies, read as one of ours."""

from __future__ import annotations

from pathlib import Path

import torch

from hsae_hub.artifact import CONFIG, WEIGHTS
from hsae_hub.errors import CorruptError, NotFoundError, UsageError
from hsae_hub.hub.fetching import OnProgress, fetch_checked
from hsae_hub.hub.foreign import ForeignSAE, as_foreign, refuse_foreign
from hsae_hub.hub.hub import Hub, place_of
from hsae_hub.hub.locate import locate, no_sae
from hsae_hub.hub.places import Place
from hsae_hub.hub.pull import MOST_FILES
from hsae_hub.hub.refs import Ref
from hsae_hub.interop import Imported, check_pickle, read_foreign


def is_ours(folder: Path) -> bool:
    """Whether a folder is to be read as an SAE of this package."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def import_sae(
    ref: str | Path,
    *,
    hub: Hub | str | Path | None = None,
    allow_pickle: bool = False,
    format: str | None = None,
    on_progress: OnProgress | None = None,
) -> Imported:
    """Reads an SAE of another toolkit from a folder, a file, or a hub; `hub` as for `Hub`.

    `format` names its format where names of files do not tell. A hub has to be reached each time.

    Raises:
        UsageError: it is this package's own, or nothing here computes the same, or there is no such format.
        NotFoundError: it is not there, or in no format that is known.
        DeniedError: it may not be seen, or is a pickle and `allow_pickle` is not set.
        CorruptError: its files do not hold what the format says.
        ResourceError: a package is missing that reads it.
        NetworkError: the hub cannot be reached.
    """
    parsed = Ref.parse(ref)
    if parsed.folder is not None:
        if format is None and is_ours(parsed.folder):
            raise _ours(str(ref))
        return read_foreign(parsed.folder, ref=str(ref), allow_pickle=allow_pickle, named=format)
    place = place_of(hub)
    commit, tree, error = locate(place, parsed)
    if error is not None:
        raise error
    if format is not None:
        found = as_foreign(place, parsed, commit, format)
        return fetch_foreign(place, found, allow_pickle=allow_pickle, on_progress=on_progress)
    try:
        refuse_foreign(place, parsed, commit, tree)
    except ForeignSAE as found:
        return fetch_foreign(place, found, allow_pickle=allow_pickle, on_progress=on_progress)
    if parsed.path(CONFIG) in tree and parsed.path(WEIGHTS) in tree:
        raise _ours(str(parsed))
    raise no_sae(parsed, tree)


def fetch_foreign(
    place: Place,
    found: ForeignSAE,
    *,
    allow_pickle: bool = False,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    on_progress: OnProgress | None = None,
) -> Imported:
    """Fetches the files of a foreign SAE, each checked against the hub's hash, and reads them.

    Raises:
        NotFoundError: a file that its format needs is missing.
        DeniedError: it is a pickle, and `allow_pickle` is not set.
        CorruptError: a file is wrong, twice, or does not hold what the format says.
        UsageError: nothing here computes the same.
        NetworkError: the hub cannot be reached.
    """
    ref, repo = found.ref, str(found.ref.repo)
    check_pickle(found.format, str(ref), allow_pickle)
    if found.format.one_file and len(found.files) > 1:
        raise NotFoundError(
            f"{ref} holds {len(found.files)} files, each an SAE of {found.format.title}",
            fix=f"hsae import {repo}:{found.files[0].path} DIR --allow-pickle",
        )
    if len(found.files) > MOST_FILES:
        raise CorruptError(f"{ref} has {len(found.files):,} files, expected at most {MOST_FILES}")
    done, total = 0, sum(entry.size for entry in found.files)
    for entry in sorted(found.files, key=lambda entry: (entry.size, entry.path)):
        fetch_checked(place, repo, found.commit, entry)
        done += entry.size
        if on_progress is not None:
            on_progress(done, total)
    at = f"/{ref.subfolder}" if ref.subfolder else ""
    return read_foreign(
        place.cache.snapshot(repo, found.commit) / (ref.subfolder or ""),
        ref=str(ref),
        where=repo + at,
        source=f"{repo}@{found.commit}" + at.replace("/", ":", 1),
        allow_pickle=allow_pickle,
        named=found.format.name,
        device=device,
        dtype=dtype,
    )


def _ours(ref: str) -> UsageError:
    return UsageError(
        f"{ref} is an SAE of this package, there is nothing to import", fix=f"hsae pull {ref}"
    )
