"""Takes pulled SAEs off this machine, with the contents that nothing else there needs."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from hsae_hub.errors import NotFoundError
from hsae_hub.hub.cache import Cache
from hsae_hub.hub.refs import Ref
from hsae_hub.problems import nearest

_SHORT = 7  # characters of a commit that name it


class Removal(NamedTuple):
    """What would be removed."""

    ref: str
    repo: str
    commits: tuple[str, ...]
    files: tuple[Path, ...]
    """Of snapshots: links to contents, or the contents themselves."""
    contents: tuple[Path, ...]
    """Contents that nothing else links to, those shared between repositories included."""
    size: int
    """Bytes that this frees."""


def plan_removal(cache: Cache, ref: Ref) -> Removal:
    """What belongs to a reference and to nothing else on this machine; nothing is removed.

    Raises:
        NotFoundError: nothing of it is here.
    """
    repo = str(ref.repo)
    commits = _commits(cache, repo, ref.revision)
    roots = [cache.snapshot(repo, commit) / (ref.subfolder or "") for commit in commits]
    files = [p for root in roots for p in sorted(root.rglob("*")) if p.is_symlink() or p.is_file()]
    if not files:
        raise _absent(cache, ref)
    folder, gone = cache.repo(repo), set(files)
    kept = (p for p in (folder / "snapshots").rglob("*") if p not in gone)
    blobs = _below(folder / "blobs", _targets(files) - _targets(kept))
    others = (p for p in cache.root.glob("*--*/blobs/*") if p not in blobs)
    shared = _below(cache.root / "blobs", _targets(blobs) - _targets(others))
    contents = sorted(blobs | shared)
    size = sum(
        at.st_size for at in map(os.lstat, [*files, *contents]) if not stat.S_ISLNK(at.st_mode)
    )
    return Removal(str(ref), repo, tuple(commits), tuple(files), tuple(contents), size)


def remove(cache: Cache, removal: Removal) -> None:
    """Removes what was planned, and the folders and notes that are about nothing then."""
    for path in removal.files:
        path.unlink(missing_ok=True)
    for path in removal.contents:
        if path.is_relative_to(cache.root / "blobs"):
            with FileLock(path.with_name(f"{path.name}.lock")):  # the client's own
                path.unlink(missing_ok=True)
                path.with_name(f"{path.name}.refs").unlink(missing_ok=True)
        else:
            path.unlink(missing_ok=True)
    repo = cache.repo(removal.repo)
    for commit in removal.commits:
        snapshot = cache.snapshot(removal.repo, commit)
        _drop_empty(snapshot)
        if not snapshot.exists():
            cache.forget(removal.repo, commit)
    if not any((repo / "snapshots").iterdir()):
        shutil.rmtree(repo)
        shutil.rmtree(cache.root / ".locks" / repo.name, ignore_errors=True)


def _commits(cache: Cache, repo: str, revision: str | None) -> list[str]:
    known = [commit for name, commit in cache.commits() if name == repo]
    if revision is None:
        return known
    meant = cache.commit(repo, revision) or revision
    return [c for c in known if c == meant or (len(meant) >= _SHORT and c.startswith(meant))]


def _absent(cache: Cache, ref: Ref) -> NotFoundError:
    commits = list(cache.commits())
    here = [commit[:12] for name, commit in commits if name == ref.repo]
    hint = "" if here else nearest(str(ref.repo), sorted({name for name, _ in commits}))
    return NotFoundError(
        f"{ref} is not on this machine{hint}",
        why=f"it has {ref.repo} at {', '.join(here)}" if here else "",
        fix="hsae ls",
    )


def _targets(paths: Iterable[Path]) -> set[Path]:
    """Where links lead, one step."""
    links = (path for path in paths if path.is_symlink())
    return {Path(os.path.abspath(path.parent / path.readlink())) for path in links}


def _below(folder: Path, paths: set[Path]) -> set[Path]:
    return {path for path in paths if path.is_relative_to(folder) and os.path.lexists(path)}


def _drop_empty(folder: Path) -> None:
    """Removes the folders without files in a folder, and itself if nothing stays."""
    for root, _, _ in os.walk(folder, topdown=False):
        if not os.listdir(root):
            os.rmdir(root)
