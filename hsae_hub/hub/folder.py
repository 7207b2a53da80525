"""A plain folder as a place for SAEs: the embedded default, or a lab's shared disk.

    org/name/repo.json                    made together with the repository
    org/name/objects/<sha256>             contents
    org/name/history/00000001/commit.json every commit, numbered; its id is the hash of this file
    org/name/tags/<tag>/commit            id of a commit

Nothing is ever changed. A commit, a tag and a repository appear by renaming a finished folder to its name, which fails
if that name is taken: so the second of two writers loses, whole, on any file system and without a lock to leave behind.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from hsae_hub.artifact import flush
from hsae_hub.card import CARD, front_of
from hsae_hub.errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    NetworkError,
    NotFoundError,
    UsageError,
)
from hsae_hub.hub.cache import Cache, home
from hsae_hub.hub.durable import appear, copy_through, write_through
from hsae_hub.hub.faults import is_transient, local_fault
from hsae_hub.hub.header import read_header
from hsae_hub.hub.places import (
    MAIN,
    Entry,
    OnBytes,
    Proposal,
    RepoInfo,
    Search,
    Tensor,
    same_content,
)
from hsae_hub.problems import nearest

_LARGEST_CARD = 1 << 20  # bytes

T = TypeVar("T")


class _Commit(NamedTuple):
    id: str
    number: int
    time: str
    files: dict[str, Entry]


class FolderHub:
    """A `Place` in a folder, which is made by the first push."""

    def __init__(self, root: Path, *, cache_dir: Path | None = None) -> None:
        self.root = root.expanduser().resolve()
        self.name = str(self.root)
        key = hashlib.sha256(self.name.encode()).hexdigest()[:12]
        self.cache = Cache((cache_dir or home()) / "folders" / f"{self.root.name or 'root'}-{key}")

    def resolve(self, repo: str, revision: str | None) -> str:
        folder = self._repo(repo)
        if revision is None or revision == MAIN:
            newest = self._newest(folder)
            if newest is None:
                raise NotFoundError(f"{repo} on {self.name} is empty")
            return newest.id
        tags = self.tags(repo)
        if revision in tags:
            return tags[revision]
        if any(commit.id == revision for commit in self._history(folder)):
            return revision
        known = ", ".join(sorted(tags)) or "none"
        raise NotFoundError(
            f"no revision {revision!r} in {repo} on {self.name}{nearest(revision, tags)}",
            why=f"its tags: {known}",
        )

    def tree(self, repo: str, commit: str) -> list[Entry]:
        return list(self._find(repo, commit).files.values())

    def fetch(
        self,
        repo: str,
        commit: str,
        entry: Entry,
        *,
        again: bool = False,
        on_bytes: OnBytes | None = None,
    ) -> Path:
        target = self.cache.snapshot(repo, commit) / entry.path
        if again or not target.is_file():
            source = self._object(repo, entry)
            self._reading(repo, lambda: source.open("rb").close())
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._reading(repo, lambda: copy_through(source, target, on_bytes))
            except OSError as error:
                told = local_fault(error, f"{entry.path} of {repo}", self.cache.root)
                if told is None:
                    raise
                raise told from error
        return target

    def tensors(self, repo: str, commit: str, entry: Entry) -> list[Tensor]:
        return read_header(self._object(repo, entry), f"{entry.path} of {repo}").tensors

    def is_private(self, repo: str) -> bool:
        data = _read_json(self._repo(repo) / "repo.json")
        return bool(data.get("private", True))

    def create(self, repo: str, *, private: bool) -> str | None:
        target = self.root / repo
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": 1, "private": private, "created": _now()}) + "\n"
        if not appear(target, {"repo.json": text}):
            raise ConflictError(f"{repo} exists on {self.name} already")
        return None

    def commit(
        self,
        repo: str,
        add: Mapping[str, Path | bytes],
        remove: Sequence[str],
        *,
        message: str,
        parent: str | None,
    ) -> str:
        folder = self._repo(repo)
        newest = self._newest(folder)
        if parent != (newest.id if newest else None):
            raise self._moved(repo, newest)
        (folder / "objects").mkdir(exist_ok=True)
        (folder / "history").mkdir(exist_ok=True)
        files = {} if newest is None else dict(newest.files)
        for path in remove:
            files.pop(path, None)
        for path, content in add.items():
            files[path] = self._store(folder, path, content)
        number = newest.number + 1 if newest else 1
        data = {
            "format": 1,
            "number": number,
            "parent": parent,
            "time": _now(),
            "message": message,
            "files": {p: {"sha256": e.sha256, "size": e.size} for p, e in sorted(files.items())},
        }
        text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        if not appear(folder / "history" / f"{number:08d}", {"commit.json": text}):
            raise self._moved(repo, self._newest(folder))
        return _commit_id(text.encode())

    def propose(
        self,
        repo: str,
        add: Mapping[str, Path | bytes],
        remove: Sequence[str],
        *,
        message: str,
        parent: str,
    ) -> Proposal:
        raise UsageError(
            f"{self.name} is a folder and knows no pull requests",
            fix=f"push to another repository, for the owners of {repo} to look at",
        )

    def tags(self, repo: str) -> dict[str, str]:
        paths = sorted((self._repo(repo) / "tags").glob("*/commit"))
        return {
            path.parent.name: path.read_text(encoding="utf-8").strip()
            for path in paths
            if not path.parent.name.startswith(".")
        }

    def tag(self, repo: str, tag: str, commit: str) -> None:
        folder = self._repo(repo) / "tags"
        folder.mkdir(exist_ok=True)
        if not appear(folder / tag, {"commit": commit + "\n"}):
            named = self.tags(repo).get(tag)
            if named != commit:
                raise ConflictError(
                    f"tag {tag} of {repo} names {str(named)[:12]}, not {commit[:12]}"
                )

    def repos(self, search: Search, limit: int) -> list[RepoInfo]:
        self._check()
        found = []
        for path in self.root.glob("*/*/repo.json"):
            repo = f"{path.parent.parent.name}/{path.parent.name}"
            newest = None if path.parent.name.startswith(".") else self._newest(path.parent)
            if newest is not None:
                tags = self._tags_of(repo, newest.files)
                private = self.is_private(repo)
                found.append(RepoInfo(repo, private, newest.id, newest.time, tags))
        found.sort(key=lambda info: (info.updated, info.repo), reverse=True)
        return [info for info in found if search.fits(info)][:limit]

    def _tags_of(self, repo: str, files: Mapping[str, Entry]) -> tuple[str, ...]:
        """What its card says, as Hugging Face tells it."""
        card = files.get(CARD)
        if card is None or card.size > _LARGEST_CARD:
            return ()
        front = front_of(self._object(repo, card).read_text("utf-8", errors="replace")) or {}
        tags, models = front.get("tags"), front.get("base_model")
        listed = [*(tags if isinstance(tags, list) else [])]
        bases = models if isinstance(models, list) else [models] if models else []
        words = [*listed, *(f"base_model:{model}" for model in bases if isinstance(model, str))]
        return tuple(str(word) for word in words if isinstance(word, str | int | float))

    def url(self, repo: str) -> str:
        return str(self.root / repo)

    def _check(self) -> None:
        if not self.root.is_dir():
            raise NotFoundError(
                f"no hub in {self.name}", why="there is no such folder; the first push makes it"
            )

    def _repo(self, repo: str) -> Path:
        folder = self.root / repo
        if not self._reading(repo, lambda: (folder / "repo.json").is_file()):
            self._check()
            names = [str(p.parent.relative_to(self.root)) for p in self.root.glob("*/*/repo.json")]
            raise NotFoundError(f"no repository {repo} on {self.name}{nearest(repo, names)}")
        return folder

    def _object(self, repo: str, entry: Entry) -> Path:
        path = self._repo(repo) / "objects" / str(entry.sha256)
        if not path.is_file():
            raise CorruptError(
                f"{self.name} has lost the content of {entry.path} of {repo}",
                why=f"no {path}",
                fix=f"put it back, or remove {self.root / repo} and push again",
            )
        return path

    def _store(self, folder: Path, path: str, content: Path | bytes) -> Entry:
        beside = folder / "objects" / f".{uuid4().hex}.partial"
        try:
            digest, size = write_through(beside, content)
            entry = Entry(path, size, sha256=digest)
            target = folder / "objects" / digest
            if not (target.is_file() and same_content(target, entry)):
                beside.replace(target)
                flush(target.parent)
        finally:
            beside.unlink(missing_ok=True)
        return entry

    def _numbers(self, folder: Path) -> list[int]:
        return sorted(int(p.name) for p in (folder / "history").glob("[0-9]*"))

    def _newest(self, folder: Path) -> _Commit | None:
        numbers = self._numbers(folder)
        return _read_commit(folder, numbers[-1]) if numbers else None

    def _history(self, folder: Path) -> list[_Commit]:
        return [_read_commit(folder, number) for number in reversed(self._numbers(folder))]

    def _find(self, repo: str, commit: str) -> _Commit:
        for found in self._history(self._repo(repo)):
            if found.id == commit:
                return found
        raise NotFoundError(f"no commit {commit[:12]} in {repo} on {self.name}")

    def _moved(self, repo: str, newest: _Commit | None) -> ConflictError:
        now = newest.id[:12] if newest else "nothing"
        return ConflictError(
            f"{repo} has changed on {self.name} since it was read; it is at {now}",
            fix="look at it, then do this again",
        )

    def _reading(self, repo: str, read: Callable[[], T]) -> T:
        try:
            return read()
        except OSError as error:
            if isinstance(error, PermissionError) and self._is_here(error.filename):
                raise DeniedError(
                    f"{repo} on {self.name} may not be read", why=str(error)
                ) from None
            if is_transient(error):  # a disk behind a network
                raise NetworkError(
                    f"{self.name} did not answer for {repo}", why=str(error)
                ) from None
            raise

    def _is_here(self, path: Any) -> bool:
        return path is None or Path(str(path)).is_relative_to(self.root)


def _read_commit(folder: Path, number: int) -> _Commit:
    path = folder / "history" / f"{number:08d}" / "commit.json"
    try:
        text = path.read_bytes()
        data = json.loads(text)
        files = {
            str(name): Entry(str(name), int(file["size"]), sha256=str(file["sha256"]))
            for name, file in data["files"].items()
        }
        if data["number"] != number:
            raise ValueError(f"it says it is number {data['number']}")
        if not all(re.fullmatch("[0-9a-f]{64}", str(entry.sha256)) for entry in files.values()):
            raise ValueError("a hash is none")
        return _Commit(_commit_id(text), number, str(data["time"]), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path} is damaged: {error!r}") from None


def _commit_id(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:40]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CorruptError(f"{path} is damaged: {error}") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
