"""What the loopback hub holds: repositories, their files, and the faults it is told to have."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """What goes wrong with the requests whose `METHOD /path` matches; `times` None is for ever."""

    pattern: str
    kind: str
    """A status such as `503`; or reset (before an answer), lost (after the deed), flip (a wrong byte), short."""
    times: int | None = 1
    headers: dict[str, str] = field(default_factory=dict)

    def due(self, request: str) -> bool:
        if self.times == 0 or not re.search(self.pattern, request):
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class File:
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """What the client compares: sha256 of an LFS file, git's hash of a regular one."""
        if self.lfs:
            return self.sha256
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Repo:
    name: str
    private: bool
    gated: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    """Files of every commit, oldest first."""
    messages: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def add_commit(self, files: dict[str, File], message: str) -> str:
        commit = hashlib.sha1(f"{self.name} {len(self.commits)} {message}".encode()).hexdigest()
        self.commits[commit] = files
        self.messages.append(message)
        return commit

    def find(self, revision: str) -> str | None:
        if revision in ("main", "refs/heads/main"):
            return self.head
        return self.tags.get(revision, revision if revision in self.commits else None)


class Answer(Exception):
    """Ends a request with a status."""

    def __init__(self, status: int, data: Any = None, code: str = "", message: str = "") -> None:
        super().__init__(status)
        self.status, self.code, self.message = status, code, message
        self.body = json.dumps({"error": message} if data is None else data).encode()
