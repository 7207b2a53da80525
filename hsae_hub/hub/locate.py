"""What a reference means at this moment: a commit, and the files of it that may be pulled."""

from __future__ import annotations

import logging
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import NamedTuple

from hsae_hub.artifact import CONFIG
from hsae_hub.errors import NetworkError, NotFoundError
from hsae_hub.hub.places import MAIN, Entry, Place
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


class Located(NamedTuple):
    """What a reference means at this moment."""

    commit: str
    tree: dict[str, Entry]
    """Files that may be pulled, by path."""
    error: NetworkError | None
    """Why the cache had to answer for the hub."""


def locate(place: Place, ref: Ref, *, offline: bool = False) -> Located:
    """Pins a reference to a commit and lists its files; from the cache if the hub cannot be, or is not to be, reached.

    Raises:
        NotFoundError: no such repository or revision.
        DeniedError: it may not be seen.
        NetworkError: the hub is not reached and the cache does not know the revision.
    """
    repo = str(ref.repo)
    error = None
    try:
        if offline:
            raise NetworkError(f"{place.name} is not asked for {ref}", why="offline was asked for")
        commit = place.resolve(repo, ref.revision)
    except NetworkError as failed:
        cached = _cached_commit(place, repo, ref.revision or MAIN)
        if cached is None:
            raise _not_cached(place, repo, failed) from None
        commit, error = cached, failed
        if not offline:
            _log.warning("%s; taking %s from the cache", failed.message, commit[:12])
    except NotFoundError as failed:
        raise _near_miss(place, ref, failed) from None
    entries = known_tree(place, repo, commit)
    if entries is None:
        try:
            entries = place.tree(repo, commit)
        except NetworkError as failed:
            raise _not_cached(place, repo, failed) from None
    return Located(commit, {e.path: e for e in entries if may_pull(e.path)}, error)


def may_pull(path: str) -> bool:
    """Whether a file of a repository is of a kind, and at a place, that is pulled."""
    name = PurePosixPath(path).name
    return is_safe_path(path) and any(fnmatchcase(name, kind) for kind in KINDS)


def _cached_commit(place: Place, repo: str, revision: str) -> str | None:
    for commit in (place.cache.commit(repo, revision), revision):
        if commit is not None and known_tree(place, repo, commit) is not None:
            return commit
    return None


def known_tree(place: Place, repo: str, commit: str) -> list[Entry] | None:
    """The files of a commit that was pulled before; None if it was not."""
    try:
        return [Entry(**file) for file in place.cache.tree(repo, commit) or ()] or None
    except TypeError:  # a note by another version
        return None


def no_sae(ref: Ref, tree: dict[str, Entry]) -> NotFoundError:
    """Says that a repository holds no SAE where a reference looks for one, and where it does."""
    folders = sorted(
        str(PurePosixPath(path).parent) for path in tree if PurePosixPath(path).name == CONFIG
    )
    where = f"in {ref.subfolder}/" if ref.subfolder else "at the root"
    others = [folder for folder in folders if folder != "."]
    return NotFoundError(
        f"no {CONFIG} {where} of {ref.at}{nearest(ref.subfolder or '', others)}",
        why=f"it has SAEs in: {', '.join(others)}" if others else "it holds no SAE of this package",
        fix="\n".join(f"hsae pull {ref.at}:{folder}" for folder in others[:3]),
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


def not_whole(ref: Ref, commit: str, missing: set[str], error: NetworkError) -> NetworkError:
    """Says that the cache has a part of an SAE only, and why the hub did not give the rest."""
    return NetworkError(
        f"the cache has {ref} at {commit[:12]} but lacks {', '.join(sorted(missing)[:3])}"
        + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
        why=error.message,
        fix=error.fix,
    )
