"""Brings an SAE to this machine and lets nobody see it before every byte is what the hub and its config say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hsae_hub.artifact import (
    CONFIG,
    CORE_REPORT,
    WEIGHTS,
    ArtifactConfig,
    check_header,
    read_config,
    read_manifest,
    sha256_file,
)
from hsae_hub.errors import CorruptError, ResourceError
from hsae_hub.features import FOLDER as FEATURES
from hsae_hub.hub.collection import check_manifest
from hsae_hub.hub.fetching import Fetched, OnProgress
from hsae_hub.hub.foreign import refuse_foreign
from hsae_hub.hub.header import read_header
from hsae_hub.hub.locate import Located, known_tree, locate, no_sae, not_whole
from hsae_hub.hub.places import MAIN, Entry, Place
from hsae_hub.hub.refs import Ref

MOST_FILES = 1000
"""Files of one SAE; a repository that says it has more is not pulled."""
_SPARE = 10_000_000  # bytes that a pull leaves free on the disk


class Pulled(NamedTuple):
    """An SAE on this machine."""

    folder: Path
    """Holds its `config.json`."""
    commit: str
    repo: str
    files: tuple[str, ...]
    """Paths in the repository."""
    size: int
    """Bytes of all of them."""
    up_to_date: bool
    """Whether all of them were here already."""
    offline: bool
    """Whether the hub was not reached, so that the revision may have moved."""


class PullPlan(NamedTuple):
    """What a pull would do."""

    repo: str
    commit: str
    folder: Path
    """Where the SAE will lie."""
    files: tuple[str, ...]
    """Paths in the repository."""
    size: int
    """Bytes of all of them."""
    missing: tuple[str, ...]
    """Those that are not here yet."""
    missing_size: int
    free: int
    """Bytes that the disk has left."""


def plan_pull(place: Place, ref: Ref, *, features: bool = False) -> PullPlan:
    """What `pull` would fetch; of a collection its manifest is, nothing else.

    Raises:
        NotFoundError: no such repository, revision, or SAE in it.
        UsageError: it is an SAE of another toolkit.
        DeniedError: it may not be seen.
        NetworkError: the hub cannot be reached and the cache does not know the revision.
    """
    repo = str(ref.repo)
    located = locate(place, ref)
    fetched = Fetched(place, repo, located.commit, offline=located.error)
    wanted = wanted_files(ref, located, fetched, features=features)
    snapshot = place.cache.snapshot(repo, located.commit)
    missing = _missing(place, repo, located.commit, wanted.values())
    return PullPlan(
        repo,
        located.commit,
        snapshot / (ref.subfolder or ""),
        tuple(sorted(wanted)),
        sum(entry.size for entry in wanted.values()),
        tuple(entry.path for entry in missing),
        sum(entry.size for entry in missing),
        place.cache.free(),
    )


def pull(
    place: Place,
    ref: Ref,
    *,
    only_sae: bool = False,
    features: bool = False,
    verify: bool = False,
    offline: bool = False,
    on_progress: OnProgress | None = None,
) -> Pulled:
    """Pulls the SAE that a reference names; `only_sae` takes config, weights and what was measured, no baseline.

    The tables of its index, which may be larger than itself, come only with `features`.
    Files that were found good before, and not touched since, are hashed again only with `verify`. `offline` takes all
    of it from the cache.

    Raises:
        NotFoundError: no such repository, revision, or SAE in it.
        UsageError: it is an SAE of another toolkit.
        DeniedError: it may not be seen, or the cache may not be written.
        CorruptError: a file is wrong, and was wrong again when it was fetched once more.
        ResourceError: the disk has no space for it.
        NetworkError: the hub is not reached and the cache does not hold all of it.
        ConflictError: another process holds on to a file of it.
    """
    repo = str(ref.repo)
    located = commit, tree, error = locate(place, ref, offline=offline)
    snapshot = place.cache.snapshot(repo, commit)
    fetched = Fetched(place, repo, commit, verify=verify, offline=error, on_progress=on_progress)
    wanted = wanted_files(ref, located, fetched, features=features)
    here = {path for path in wanted if (snapshot / path).is_file()}
    if error is not None and ref.path(CONFIG) not in here:
        raise not_whole(ref, commit, {ref.path(CONFIG)}, error)
    fetched.total = sum(entry.size for entry in wanted.values())
    folder = fetched.get(wanted[ref.path(CONFIG)]).parent
    if only_sae:
        own = [*read_config(folder).files, CONFIG, CORE_REPORT]
        names = {ref.path(name) for name in own} | {
            p for p in wanted if features and _is_index(ref, p)
        }
        wanted = {path: entry for path, entry in wanted.items() if path in names}
        fetched.total = sum(entry.size for entry in wanted.values())
    _agree(read_config(folder), ref.path, tree, ref)
    if error is not None and wanted.keys() - here:
        raise not_whole(ref, commit, wanted.keys() - here, error)
    _check_space(place, ref, _missing(place, repo, commit, wanted.values()))
    for entry in sorted(wanted.values(), key=lambda entry: (entry.size, entry.path)):
        if entry.path != ref.path(CONFIG):
            fetched.get(entry)
    for path in wanted:
        if PurePosixPath(path).name == CONFIG:
            check_sae(snapshot, PurePosixPath(path).parent, tree, ref)
    if error is None:
        _remember(place, ref, commit, tree)
    fetched.remember()
    fresh = bool(wanted.keys() - here) or fetched.healed
    if fresh:
        place.cache.prune(repo)
    size = sum(entry.size for entry in wanted.values())
    return Pulled(folder, commit, repo, tuple(sorted(wanted)), size, not fresh, error is not None)


def check_collection(ref: Ref, tree: dict[str, Entry], fetched: Fetched) -> None:
    """Where the repository is a collection: makes sure that the SAE is in it, and is the one its manifest names.

    Raises:
        NotFoundError: it is not in it, or none is named.
        CorruptError: the manifest cannot be read, or names other files.
        NetworkError: the hub cannot be reached and the cache does not hold the manifest.
    """
    if CONFIG in tree:
        manifest = read_manifest(fetched.get(tree[CONFIG], counted=False).parent)
        if manifest is not None:
            check_manifest(manifest, ref.subfolder, tree, ref.at)


def wanted_files(
    ref: Ref, located: Located, fetched: Fetched, *, features: bool = False
) -> dict[str, Entry]:
    """The files of the SAE that a reference names; `fetched` gives the manifest of a collection.

    Raises:
        NotFoundError: there is no such SAE.
        UsageError: it is one of another toolkit.
        CorruptError: it has more files than any SAE has, or the manifest names others.
        NetworkError: the hub cannot be reached and the cache does not hold the manifest.
    """
    tree = located.tree
    if located.error is None:
        refuse_foreign(fetched.place, ref, located.commit, tree)
    if ref.path(CONFIG) not in tree:
        raise no_sae(ref, tree)
    if ref.subfolder or WEIGHTS not in tree:
        check_collection(ref, tree, fetched)
    prefix = ref.path("")
    wanted = {
        path: entry
        for path, entry in tree.items()
        if path.startswith(prefix)
        and (features or not (_is_index(ref, path) and path.endswith(".parquet")))
    }
    if len(wanted) > MOST_FILES:
        raise CorruptError(
            f"{ref} has {len(wanted):,} files, expected at most {MOST_FILES:,}",
            why="no SAE has as many",
        )
    return wanted


def _is_index(ref: Ref, path: str) -> bool:
    """Whether a file belongs to the index of an SAE's features."""
    return path.startswith(ref.path(f"{FEATURES}/"))


def _missing(place: Place, repo: str, commit: str, wanted: Iterable[Entry]) -> list[Entry]:
    """Files whose content is not on this machine."""
    snapshot = place.cache.snapshot(repo, commit)
    return [
        entry
        for entry in wanted
        if not (snapshot / entry.path).is_file() and not place.cache.has_content(repo, entry.digest)
    ]


def _check_space(place: Place, ref: Ref, missing: Iterable[Entry]) -> None:
    """Raises ResourceError when the disk cannot hold what is missing."""
    needed, free = sum(entry.size for entry in missing), place.cache.free()
    if needed and needed + _SPARE > free:
        raise ResourceError(
            f"{ref} needs {needed / 1e9:.2f} GB, but the disk of {place.cache.root} has {free / 1e9:.2f} GB left",
            fix="hsae ls    then hsae rm what is not needed, or HF_HOME on another disk",
        )


def _agree(
    config: ArtifactConfig, in_repo: Callable[[str], str], tree: dict[str, Entry], ref: Ref
) -> None:
    """Compares what a config says of its weight files with what the hub says, before any of them is fetched."""
    if WEIGHTS not in config.files:
        raise CorruptError(f"{in_repo(CONFIG)} of {ref.repo} does not name {WEIGHTS}")
    for name, info in config.files.items():
        entry = tree.get(in_repo(name))
        if entry is None:
            raise CorruptError(f"{in_repo(CONFIG)} of {ref.repo} names {name}, which is not there")
        if entry.size != info.size or entry.sha256 not in (None, info.sha256):
            raise CorruptError(
                f"{entry.path} of {ref.repo} is not the file that {in_repo(CONFIG)} was written for",
                why=f"config: {info.size} bytes, sha256 {info.sha256[:12]}…; "
                f"hub: {entry.size} bytes, sha256 {str(entry.sha256)[:12]}…",
                fix="its author has to push it again",
            )


def check_sae(snapshot: Path, folder: PurePosixPath, tree: dict[str, Entry], ref: Ref) -> None:
    """Compares the config in a folder of a snapshot with the hub's hashes and with the header of its weights.

    Raises:
        CorruptError: they do not agree.
    """
    config = read_config(snapshot / folder)
    _agree(config, lambda name: str(folder / name), tree, ref)
    for name, info in config.files.items():
        path = snapshot / folder / name
        known = tree[str(folder / name)].sha256
        if known is None and sha256_file(path) != info.sha256:
            raise CorruptError(
                f"{folder / name} of {ref.repo} does not have the sha256 of {CONFIG}"
            )
    where = f"{folder / WEIGHTS} of {ref.repo}"
    check_header(read_header(snapshot / folder / WEIGHTS, where).text, config, where)


def _remember(place: Place, ref: Ref, commit: str, tree: dict[str, Entry]) -> None:
    repo = str(ref.repo)
    if known_tree(place, repo, commit) is None:
        place.cache.remember_tree(repo, commit, [entry._asdict() for entry in tree.values()])
    place.cache.remember_commit(repo, ref.revision or MAIN, commit)
