"""Brings an SAE to this machine and lets nobody see it before every byte is what the hub and its config say."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fnmatch import fnmatchcase
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
from hsae_hub.errors import CorruptError, NetworkError, NotFoundError
from hsae_hub.features import FOLDER as FEATURES
from hsae_hub.hub.collection import check_manifest
from hsae_hub.hub.foreign import refuse_foreign
from hsae_hub.hub.header import read_header
from hsae_hub.hub.places import MAIN, Entry, OnBytes, Place, content_hash, same_content
from hsae_hub.hub.refs import Ref, is_safe_path
from hsae_hub.problems import nearest

_log = logging.getLogger(__name__)

KINDS = (
    "*.safetensors",
    "*.parquet",
    "*.json",
    "*.jsonl",
    "*.md",
    "*.yaml",
    "LICENSE",
    "LICENSE.txt",
)
"""Names of the files that are pulled. Pickles, archives and code never are."""

OnProgress = Callable[[int, int], None]
"""Told the bytes of the whole pull that are here and checked or arriving, and of how many."""


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


class Located(NamedTuple):
    """What a reference means at this moment."""

    commit: str
    tree: dict[str, Entry]
    """Files that may be pulled, by path."""
    error: NetworkError | None
    """Why the cache had to answer for the hub."""


def may_pull(path: str) -> bool:
    """Whether a file of a repository is of a kind, and at a place, that is pulled."""
    name = PurePosixPath(path).name
    return is_safe_path(path) and any(fnmatchcase(name, kind) for kind in KINDS)


def locate(place: Place, ref: Ref) -> Located:
    """Pins a reference to a commit and lists its files; from the cache if the hub cannot be reached.

    Raises:
        NotFoundError: no such repository or revision.
        DeniedError: it may not be seen.
        NetworkError: the hub cannot be reached and the cache does not know the revision.
    """
    repo = str(ref.repo)
    error = None
    try:
        commit = place.resolve(repo, ref.revision)
    except NetworkError as failed:
        cached = place.cache.commit(repo, ref.revision or MAIN)
        if cached is None or _known_tree(place, repo, cached) is None:
            raise _not_cached(place, repo, failed) from None
        commit, error = cached, failed
        _log.warning("%s; taking %s from the cache", failed.message, commit[:12])
    except NotFoundError as failed:
        raise _near_miss(place, ref, failed) from None
    entries = _known_tree(place, repo, commit)
    if entries is None:
        try:
            entries = place.tree(repo, commit)
        except NetworkError as failed:
            raise _not_cached(place, repo, failed) from None
    return Located(commit, {e.path: e for e in entries if may_pull(e.path)}, error)


def pull(
    place: Place,
    ref: Ref,
    *,
    only_sae: bool = False,
    features: bool = False,
    on_progress: OnProgress | None = None,
) -> Pulled:
    """Pulls the SAE that a reference names; `only_sae` takes config, weights and what was measured, no baseline.

    The tables of its index, which may be larger than itself, come only with `features`.

    Raises:
        NotFoundError: no such repository, revision, or SAE in it.
        UsageError: it is an SAE of another toolkit.
        DeniedError: it may not be seen.
        CorruptError: a file is wrong, and was wrong again when it was fetched once more.
        NetworkError: the hub cannot be reached and the cache does not hold all of it.
    """
    repo = str(ref.repo)
    commit, tree, error = locate(place, ref)
    if error is None:
        refuse_foreign(place, ref, commit, tree)
    if ref.path(CONFIG) not in tree:
        raise no_sae(ref, tree)
    snapshot = place.cache.snapshot(repo, commit)
    prefix = f"{ref.subfolder}/" if ref.subfolder else ""
    index = {path for path in tree if path.startswith(f"{prefix}{FEATURES}/")}
    left_out = set() if features else {path for path in index if path.endswith(".parquet")}
    wanted = {
        path: entry
        for path, entry in tree.items()
        if path.startswith(prefix) and path not in left_out
    }
    here = {path for path in wanted if (snapshot / path).is_file()}
    fetched = _Fetched(place, repo, commit, on_progress)
    if error is not None and ref.path(CONFIG) not in here:
        raise _not_whole(ref, commit, {ref.path(CONFIG)}, error)
    fetched.total = sum(entry.size for entry in wanted.values())
    folder = fetched.get(wanted[ref.path(CONFIG)]).parent
    check_collection(place, ref, commit, tree)
    if only_sae:
        own = [*read_config(folder).files, CONFIG, CORE_REPORT]
        names = {ref.path(name) for name in own} | (index if features else set())
        wanted = {path: entry for path, entry in wanted.items() if path in names}
        fetched.total = sum(entry.size for entry in wanted.values())
    _agree(read_config(folder), ref.path, tree, ref)
    if error is not None and wanted.keys() - here:
        raise _not_whole(ref, commit, wanted.keys() - here, error)
    for entry in sorted(wanted.values(), key=lambda entry: (entry.size, entry.path)):
        if entry.path != ref.path(CONFIG):
            fetched.get(entry)
    for path in wanted:
        if PurePosixPath(path).name == CONFIG:
            _check_sae(snapshot, PurePosixPath(path).parent, tree, ref)
    if error is None:
        _remember(place, ref, commit, tree)
    fresh = bool(wanted.keys() - here) or fetched.healed
    size = sum(entry.size for entry in wanted.values())
    return Pulled(folder, commit, repo, tuple(sorted(wanted)), size, not fresh, error is not None)


def check_collection(place: Place, ref: Ref, commit: str, tree: dict[str, Entry]) -> None:
    """Where the repository is a collection: makes sure that the SAE is in it, and is the one its manifest names.

    Raises:
        NotFoundError: it is not in it, or none is named.
        CorruptError: the manifest cannot be read, or names other files.
        NetworkError: the hub cannot be reached and the cache does not hold the manifest.
    """
    if CONFIG not in tree:
        return
    if ref.subfolder is not None:  # else it was fetched as that of the SAE
        fetch_checked(place, str(ref.repo), commit, tree[CONFIG])
    manifest = read_manifest(place.cache.snapshot(str(ref.repo), commit))
    if manifest is not None:
        at = f"{ref.repo}@{ref.revision}" if ref.revision else str(ref.repo)
        check_manifest(manifest, ref.subfolder, tree, at)


class _Fetched:
    """Files that are here and checked, one after the other, and how far that has come."""

    def __init__(
        self, place: Place, repo: str, commit: str, on_progress: OnProgress | None
    ) -> None:
        self.place, self.repo, self.commit = place, repo, commit
        self.on_progress = on_progress
        self.done = self.total = 0
        self.healed = False

    def get(self, entry: Entry) -> Path:
        arrived = 0

        def on_bytes(count: int) -> None:
            nonlocal arrived
            arrived = min(arrived + count, entry.size)  # a file that came twice counts once
            self._tell(arrived)

        path, again = fetch_checked(self.place, self.repo, self.commit, entry, on_bytes)
        self.healed = self.healed or again
        self.done += entry.size
        self._tell(0)
        return path

    def _tell(self, arriving: int) -> None:
        if self.on_progress is not None:
            self.on_progress(self.done + arriving, self.total)


def fetch_checked(
    place: Place, repo: str, commit: str, entry: Entry, on_bytes: OnBytes | None = None
) -> tuple[Path, bool]:
    """A local copy of a file whose content is the hub's, and whether it had to be fetched again for that.

    Raises:
        CorruptError: what arrived is not what the hub lists, twice; the copy is removed.
    """
    found, then = "", None
    for again in (False, True):
        try:
            path = place.fetch(repo, commit, entry, again=again, on_bytes=on_bytes)
        except NetworkError as error:
            if not again:
                raise
            then = error
            break
        if same_content(path, entry):
            return path, again
        found = _difference(path, entry)
        place.cache.evict(path)
        _log.warning("%s of %s is wrong: %s", entry.path, repo, found)
    raise CorruptError(
        f"{entry.path} of {repo} {found}",
        why=f"the copy here was damaged, and {then.message}" if then else "it came twice as this",
        fix=f"hsae pull {repo}    the wrong copy is removed",
    )


def _difference(path: Path, entry: Entry) -> str:
    size = path.stat().st_size
    if size != entry.size:
        return f"has {size} bytes, expected {entry.size}"
    kind = "sha256" if entry.sha256 is not None else "git's hash"
    expected = entry.sha256 or entry.git_sha1 or ""
    return f"has {kind} {content_hash(path, entry)[:12]}…, expected {expected[:12]}…"


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


def _check_sae(snapshot: Path, folder: PurePosixPath, tree: dict[str, Entry], ref: Ref) -> None:
    config = read_config(snapshot / folder)
    _agree(config, lambda name: str(folder / name), tree, ref)
    for name, info in config.files.items():
        path = snapshot / folder / name
        known = tree[str(folder / name)].sha256
        if known is None and sha256_file(path) != info.sha256:
            raise CorruptError(
                f"{folder / name} of {ref.repo} does not have the sha256 of {CONFIG}"
            )
    weights = snapshot / folder / WEIGHTS
    with weights.open("rb") as file:
        header = read_header(file, f"{folder / WEIGHTS} of {ref.repo}")
    check_header(header.text, config, f"{folder / WEIGHTS} of {ref.repo}")


def _known_tree(place: Place, repo: str, commit: str) -> list[Entry] | None:
    try:
        return [Entry(**file) for file in place.cache.tree(repo, commit) or ()] or None
    except TypeError:  # a note by another version
        return None


def _remember(place: Place, ref: Ref, commit: str, tree: dict[str, Entry]) -> None:
    repo = str(ref.repo)
    if _known_tree(place, repo, commit) is None:
        place.cache.remember_tree(repo, commit, [entry._asdict() for entry in tree.values()])
    place.cache.remember_commit(repo, ref.revision or MAIN, commit)


def no_sae(ref: Ref, tree: dict[str, Entry]) -> NotFoundError:
    """Says that a repository holds no SAE where a reference looks for one, and where it does."""
    folders = sorted(
        str(PurePosixPath(path).parent) for path in tree if PurePosixPath(path).name == CONFIG
    )
    where = f"in {ref.subfolder}/" if ref.subfolder else "at the root"
    others = [folder for folder in folders if folder != "."]
    name = f"{ref.repo}@{ref.revision}" if ref.revision else str(ref.repo)
    return NotFoundError(
        f"no {CONFIG} {where} of {name}{nearest(ref.subfolder or '', others)}",
        why=f"it has SAEs in: {', '.join(others)}" if others else "it holds no SAE of this package",
        fix="\n".join(f"hsae pull {name}:{folder}" for folder in others[:3]),
    )


def _near_miss(place: Place, ref: Ref, error: NotFoundError) -> NotFoundError:
    """Says what was perhaps meant: a repository that was pulled before, or a folder."""
    hint = nearest(str(ref.repo), sorted({repo for repo, _ in place.cache.commits()} - {ref.repo}))
    here = "; and there is no such folder with a config.json" if ref == Ref(ref.repo) else ""
    return NotFoundError(
        error.message + (hint if "did you mean" not in error.message else ""),
        why=(error.why + here).removeprefix("; and "),
        fix=error.fix,
    )


def _not_cached(place: Place, repo: str, error: NetworkError) -> NetworkError:
    commits = [commit[:12] for name, commit in place.cache.commits() if name == repo]
    has = (
        f"the cache has {repo} at {', '.join(commits)} only"
        if commits
        else f"the cache lacks {repo}"
    )
    return NetworkError(
        error.message, why=f"{error.why}; {has}" if error.why else has, fix=error.fix
    )


def _not_whole(ref: Ref, commit: str, missing: set[str], error: NetworkError) -> NetworkError:
    return NetworkError(
        f"the cache has {ref} at {commit[:12]} but lacks {', '.join(sorted(missing)[:3])}"
        + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
        why=error.message,
        fix=error.fix,
    )
