"""Which SAEs there are: pulled to this machine, or on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hsae_hub.artifact import CONFIG, ArtifactConfig, read_config, read_manifest
from hsae_hub.errors import HSAEError
from hsae_hub.hub.cache import Cache
from hsae_hub.hub.places import RepoInfo


class CachedSAE(NamedTuple):
    """An SAE on this machine."""

    ref: str
    """What loads exactly this one."""
    commit: str
    revisions: tuple[str, ...]
    """Branches and tags that meant this commit when it was pulled."""
    folder: Path
    config: ArtifactConfig
    size: int
    """Bytes of its weight files."""


class ListedSAE(NamedTuple):
    """A repository on the hub."""

    info: RepoInfo
    cached: bool
    """Whether its newest commit is on this machine."""


def list_cached(cache: Cache) -> list[CachedSAE]:
    """The SAEs that were pulled, by name; what is incomplete or unreadable is left out."""
    found = []
    for repo, commit in cache.commits():
        snapshot = cache.snapshot(repo, commit)
        revisions = tuple(cache.revisions(repo, commit))
        short = f"{repo}@{commit}" if not revisions else f"{repo}@{revisions[0]}"
        if "main" in revisions:
            short = repo
        beside = sorted(path.parent for path in snapshot.glob(f"*/{CONFIG}"))
        for folder in [snapshot] if _is_sae(snapshot) else beside:
            try:
                config = read_config(folder)
            except HSAEError:
                continue
            if all((folder / name).is_file() for name in config.files):
                ref = short if folder == snapshot else f"{short}:{folder.name}"
                size = sum(info.size for info in config.files.values())
                found.append(CachedSAE(ref, commit, revisions, folder, config, size))
    return sorted(found, key=lambda sae: sae.ref)


def _is_sae(folder: Path) -> bool:
    try:
        return read_manifest(folder) is None
    except HSAEError:
        return False


def list_hub(infos: list[RepoInfo], cache: Cache) -> list[ListedSAE]:
    """A hub's list, with what of it is here already."""
    here = set(cache.commits())
    return [ListedSAE(info, (info.repo, str(info.commit)) in here) for info in infos]
