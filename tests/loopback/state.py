"""What the loopback hub holds: repositories and their files; and what it answers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


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
    pulls: dict[str, str] = field(default_factory=dict)
    """Title of every pull request, by its commit; they are all open."""

    @property
    def head(self) -> str:
        return [commit for commit in self.commits if commit not in self.pulls][-1]

    def add_commit(self, files: dict[str, File], message: str) -> str:
        commit = hashlib.sha1(f"{self.name} {len(self.commits)} {message}".encode()).hexdigest()
        self.commits[commit] = files
        self.messages.append(message)
        return commit

    def find(self, revision: str) -> str | None:
        if revision in ("main", "refs/heads/main"):
            return self.head
        if revision.startswith("refs/pr/"):
            return dict(enumerate(self.pulls, 1)).get(int(revision.removeprefix("refs/pr/")))
        return self.tags.get(revision, revision if revision in self.commits else None)


class Answer(Exception):
    """What a request is answered with: returned, or raised from where there is no way on."""

    def __init__(
        self,
        status: int,
        data: Any = None,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        code: str = "",
        message: str = "",
    ) -> None:
        super().__init__(status)
        self.status = status
        told = {"error": message} if data is None else data
        self.body = json.dumps(told).encode() if body is None else body
        named = {"X-Error-Code": code, "X-Error-Message": message}
        self.headers = {k: v for k, v in named.items() if v} | (headers or {})
