"""Where pulled SAEs lie on this machine, and what is remembered of their hub while it cannot be reached."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hsae_hub.artifact import write_atomic
from hsae_hub.hub.stamps import Stamps

PREFIX = "models--"
"""How the folder of a repository begins."""
ABANDONED = 300.0
"""Seconds after which a part of a file that nobody has written to was left by a download that was killed."""


def home() -> Path:
    """This package's own folder: `$HSAE_HOME`, else `~/.cache/hsae`."""
    return Path(os.environ.get("HSAE_HOME") or "~/.cache/hsae").expanduser()


class Cache:
    """A folder in the layout of Hugging Face's cache: `models--org--name/{refs,snapshots}`, and `hsae` for notes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def repo(self, repo: str) -> Path:
        """Folder of a repository."""
        return self.root / f"{PREFIX}{repo.replace('/', '--')}"

    def snapshot(self, repo: str, commit: str) -> Path:
        """Folder that holds the files of a commit."""
        return self.repo(repo) / "snapshots" / commit

    def commit(self, repo: str, revision: str) -> str | None:
        """Commit that a revision meant when it was last pulled."""
        path = self.repo(repo) / "refs" / revision
        return path.read_text(encoding="utf-8").strip() if path.is_file() else None

    def remember_commit(self, repo: str, revision: str, commit: str) -> None:
        """Notes what a revision means; readers of a read-only cache do without."""
        if revision != commit and self.commit(repo, revision) != commit:
            _write(self.repo(repo) / "refs" / revision, commit)

    def tree(self, repo: str, commit: str) -> list[dict[str, Any]] | None:
        """The files of a commit as `remember_tree` was given them; None if unknown or unreadable."""
        try:
            files = json.loads(self._tree_path(repo, commit).read_text(encoding="utf-8"))["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return list(files) if isinstance(files, list) else None

    def remember_tree(self, repo: str, commit: str, files: Sequence[dict[str, Any]]) -> None:
        """Notes the files of a commit, which never change."""
        text = json.dumps({"files": list(files)}, indent=1)
        _write(self._tree_path(repo, commit), text)

    def commits(self) -> Iterator[tuple[str, str]]:
        """Repository and commit of everything that was pulled by this package, and is still there."""
        for note in sorted(self.root.glob(f"{PREFIX}*/hsae/*.json")):
            repo = note.parent.parent.name.removeprefix(PREFIX).replace("--", "/", 1)
            if self.snapshot(repo, note.stem).is_dir():
                yield repo, note.stem

    def stamps(self, repo: str, commit: str) -> Stamps:
        """Which files of a commit were hashed, as `remember_stamps` was given it."""
        try:
            return Stamps.parse(self._stamps_path(repo, commit).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return Stamps({})

    def remember_stamps(self, repo: str, commit: str, stamps: Stamps) -> None:
        """Notes which files of a commit were hashed."""
        if stamps.changed:
            _write(self._stamps_path(repo, commit), stamps.text())

    def has_content(self, repo: str, name: str) -> bool:
        """Whether a content of that hash is here already, under whatever path or commit."""
        return (self.repo(repo) / "blobs" / name).exists()

    def free(self) -> int:
        """Bytes that the disk of the cache has left."""
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def prune(self, repo: str) -> None:
        """Removes the parts of files that downloads of a repository left when they were killed."""
        parts = [
            *(self.repo(repo) / "blobs").glob("*.incomplete"),
            *(self.repo(repo) / "snapshots").rglob(".*.partial"),
        ]
        for part in parts:
            try:
                if time.time() - part.stat().st_mtime > ABANDONED:
                    part.unlink()
            except (FileNotFoundError, PermissionError):  # it was finished, or is not ours
                continue

    def revisions(self, repo: str, commit: str) -> list[str]:
        """Branches and tags that meant a commit when they were pulled."""
        refs = self.repo(repo) / "refs"
        names = [str(path.relative_to(refs)) for path in refs.rglob("*") if path.is_file()]
        return sorted(name for name in names if self.commit(repo, name) == commit)

    def forget(self, repo: str, commit: str) -> None:
        """Removes what is noted of a commit, here and by huggingface_hub."""
        for revision in self.revisions(repo, commit):
            (self.repo(repo) / "refs" / revision).unlink(missing_ok=True)
        notes = (self._tree_path(repo, commit), self._stamps_path(repo, commit))
        for note in (*notes, self.repo(repo) / "trees" / f"{commit}.json"):
            note.unlink(missing_ok=True)

    def evict(self, path: Path) -> None:
        """Removes a file, and the blobs behind it if it is a link, as far as they lie in this cache."""
        root = self.root.resolve()
        while path.parent.resolve().is_relative_to(root):
            target = path.parent / path.readlink() if path.is_symlink() else None
            path.unlink(missing_ok=True)
            if target is None:
                return
            path = target

    def _stamps_path(self, repo: str, commit: str) -> Path:
        return self.repo(repo) / "hsae" / "stamps" / f"{commit}.json"

    def _tree_path(self, repo: str, commit: str) -> Path:
        return self.repo(repo) / "hsae" / f"{commit}.json"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
