"""What an SAE is, from its config, its card and the headers of its weights: no weights are pulled for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from hsae_hub.artifact import (
    CONFIG,
    CORE_REPORT,
    WEIGHTS,
    ArtifactConfig,
    Manifest,
    read_config,
    read_manifest,
)
from hsae_hub.card import CARD
from hsae_hub.errors import CorruptError, NotFoundError
from hsae_hub.hub.fetching import Fetched
from hsae_hub.hub.foreign import refuse_foreign
from hsae_hub.hub.header import read_header
from hsae_hub.hub.locate import locate, no_sae
from hsae_hub.hub.places import Entry, Place, Tensor
from hsae_hub.hub.pull import check_collection
from hsae_hub.hub.refs import Ref

_SMALL = 1 << 16  # bytes; larger texts are not fetched for a look


class Shown(NamedTuple):
    """An SAE, looked at."""

    ref: str
    commit: str | None
    """None for a folder."""
    folder: Path | None
    """Where it lies on this machine, if all of its weights do."""
    config: ArtifactConfig
    tensors: list[Tensor]
    core: dict[str, Any] | None
    """The evaluation report, if there is one."""
    card: str | None
    files: list[Entry]
    """Everything that a pull of it brings; of a folder its weight files."""

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(entry.size for entry in self.files)


class ShownCollection(NamedTuple):
    """Several SAEs in one repository, looked at."""

    ref: str
    commit: str
    manifest: Manifest
    card: str | None


def show_folder(folder: Path) -> Shown:
    """Looks at an SAE in a folder.

    Raises:
        NotFoundError: there is none.
        CorruptError: its config or the header of its weights cannot be read.
    """
    config = read_config(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise NotFoundError(f"{weights} is missing")
    tensors = read_header(weights, str(weights)).tensors
    files = [Entry(name, info.size, sha256=info.sha256) for name, info in config.files.items()]
    core, card = _json(folder / CORE_REPORT), _text(folder / CARD)
    return Shown(str(folder), None, folder, config, tensors, core, card, files)


def show(place: Place, ref: Ref) -> Shown | ShownCollection:
    """Looks at an SAE on a hub, or at the collection that the reference names no SAE of.

    Raises:
        NotFoundError: no such repository, revision, or SAE in it.
        UsageError: it is an SAE of another toolkit.
        DeniedError: it may not be seen.
        CorruptError: a file is not what the hub says, or cannot be read.
        NetworkError: the hub cannot be reached and the cache does not hold it.
    """
    repo = str(ref.repo)
    commit, tree, error = locate(place, ref)
    if error is None:
        refuse_foreign(place, ref, commit, tree)
    if ref.path(CONFIG) not in tree:
        raise no_sae(ref, tree)
    prefix = ref.path("")
    files = [entry for path, entry in sorted(tree.items()) if path.startswith(prefix)]
    own = tree[ref.path(CONFIG)]
    if own.size > _SMALL and ref.path(WEIGHTS) in tree:  # else it may be that of a collection
        raise CorruptError(f"{own.path} of {ref} has {own.size} bytes, expected at most {_SMALL}")
    fetched = Fetched(place, repo, commit)
    for name in (CONFIG, CORE_REPORT, CARD):
        entry = tree.get(ref.path(name))
        if entry is not None and entry.size <= _SMALL:
            fetched.get(entry)
    folder = place.cache.snapshot(repo, commit) / (ref.subfolder or "")
    if ref.subfolder is None and WEIGHTS not in tree:
        manifest = read_manifest(fetched.get(own, counted=False).parent)
        if manifest is not None:
            return ShownCollection(str(ref), commit, manifest, _text(folder / CARD))
    check_collection(ref, tree, fetched)
    config = read_config(folder)
    weights = tree.get(ref.path(WEIGHTS))
    if weights is None:
        raise NotFoundError(f"{ref.path(WEIGHTS)} of {ref} is missing on {place.name}")
    is_here = all((folder / name).is_file() for name in config.files)
    if is_here:
        tensors = read_header(folder / WEIGHTS, f"{WEIGHTS} of {ref}").tensors
    else:
        tensors = place.tensors(repo, commit, weights)
    core, card = _json(folder / CORE_REPORT), _text(folder / CARD)
    return Shown(str(ref), commit, folder if is_here else None, config, tensors, core, card, files)


def _text(path: Path) -> str | None:
    if not path.is_file() or path.stat().st_size > _SMALL:
        return None
    return path.read_text(encoding="utf-8", errors="replace")


def _json(path: Path) -> dict[str, Any] | None:
    text = _text(path)
    try:
        data = json.loads(text) if text else None
    except ValueError:
        return None
    return data if isinstance(data, dict) else None
