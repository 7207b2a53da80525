"""What a hub is to everything above it: files under a commit. Hugging Face and a folder are the two there are."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from hsae_hub.hub.cache import Cache

TAG = "hsae"
"""Tag of the repositories that hold such SAEs; the card sets it."""
MAIN = "main"
"""The branch that a push goes to and that a reference without a revision means."""


_MODEL = re.compile(r"(base_model:(\w+:)?|model-)(?=[\w.-]+(/|$))")
_LAYER = re.compile(r"layer-(\d{1,4})")

OnBytes = Callable[[int], None]
"""Told the number of bytes that arrived since it was told last."""


class Entry(NamedTuple):
    """A file of a commit, as the hub describes it."""

    path: str
    size: int
    """In bytes."""
    sha256: str | None = None
    """None where the hub knows git's hash only."""
    git_sha1: str | None = None
    """Git's hash of the content; None where the hub knows sha256."""

    @property
    def digest(self) -> str:
        """The one of the two that the hub knows."""
        return self.sha256 or str(self.git_sha1)


class RepoInfo(NamedTuple):
    """A repository in a hub's list."""

    repo: str
    private: bool
    commit: str | None
    updated: str
    """Time of the newest commit, ISO 8601."""
    tags: tuple[str, ...] = ()
    """Of its card, and `base_model:ID` for the language models on Hugging Face."""

    @property
    def models(self) -> tuple[str, ...]:
        """The language models that its SAEs read."""
        ids = [_MODEL.sub("", tag) for tag in self.tags if _MODEL.match(tag)]
        return tuple(dict.fromkeys(ids))

    @property
    def layers(self) -> tuple[int, ...]:
        """The decoder layers that its SAEs read."""
        found = [_LAYER.fullmatch(tag) for tag in self.tags]
        return tuple(sorted({int(match[1]) for match in found if match}))


class Search(NamedTuple):
    """Which repositories are wanted."""

    query: str = ""
    """Words, each of which is part of the name or of a tag."""
    model: str | None = None
    """A language model, by its id or the id's last part."""
    layer: int | None = None

    def tags(self) -> list[str]:
        """What every one of them is tagged with."""
        return [TAG, *([] if self.layer is None else [f"layer-{self.layer}"])]

    def fits(self, info: RepoInfo) -> bool:
        """Whether a repository is one of them."""
        said = [text.lower() for text in (info.repo, *info.tags)]
        words = self.query.lower().split()
        wanted = self.model.lower() if self.model is not None else ""
        models = [model.lower() for model in info.models]
        is_model = not wanted or any(m == wanted or m.endswith(f"/{wanted}") for m in models)
        is_named = all(any(word in text for text in said) for word in words)
        return is_named and is_model and set(self.tags()) <= set(info.tags)


class Proposal(NamedTuple):
    """A commit that waits for the owners of a repository to take it."""

    commit: str
    url: str


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    passed: bool | None
    """None: it could not be done."""
    told: str


class Tensor(NamedTuple):
    """A tensor of a weight file, as its header describes it."""

    name: str
    dtype: str
    """As safetensors spells it: F32, BF16."""
    shape: tuple[int, ...]


def content_hash(content: Path | bytes, entry: Entry) -> str:
    """Hash of a local content by the algorithm that the hub used for `entry`."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if entry.sha256 is not None:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def same_content(content: Path | bytes, entry: Entry) -> bool:
    """Whether a local content is the one that the hub describes."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    return size == entry.size and content_hash(content, entry) == entry.digest


@runtime_checkable
class Place(Protocol):
    """A hub. Every method raises the package's own errors, after it has tried again what may pass."""

    name: str
    """Its address, for people."""
    cache: Cache
    """Where what was pulled from it lies."""

    def resolve(self, repo: str, revision: str | None) -> str:
        """Commit that a branch, tag or commit means.

        Raises:
            NotFoundError: no such repository or revision, or it may not be seen.
            DeniedError: gated, or the token is not good enough.
            NetworkError: the hub cannot be reached.
        """
        ...

    def tree(self, repo: str, commit: str) -> list[Entry]:
        """Every file of a commit."""
        ...

    def fetch(
        self,
        repo: str,
        commit: str,
        entry: Entry,
        *,
        again: bool = False,
        on_bytes: OnBytes | None = None,
    ) -> Path:
        """A local copy of a file; `again` fetches it even if there is one. Its content is for the caller to check."""
        ...

    def tensors(self, repo: str, commit: str, entry: Entry) -> list[Tensor]:
        """Header of a weight file, without its weights."""
        ...

    def is_private(self, repo: str) -> bool:
        """Whether only its owners see a repository."""
        ...

    def create(self, repo: str, *, private: bool) -> str | None:
        """Makes a repository; the commit that it starts with, if it starts with one.

        Raises:
            ConflictError: there is one of that name.
        """
        ...

    def commit(
        self,
        repo: str,
        add: Mapping[str, Path | bytes],
        remove: Sequence[str],
        *,
        message: str,
        parent: str | None,
    ) -> str:
        """Writes files in one commit on top of `parent`, the newest one (None: there is none yet); all or nothing.

        Raises:
            ConflictError: `parent` is not the newest commit any more.
        """
        ...

    def propose(
        self,
        repo: str,
        add: Mapping[str, Path | bytes],
        remove: Sequence[str],
        *,
        message: str,
        parent: str,
    ) -> Proposal:
        """As `commit`, but as a pull request: the newest commit stays what it is.

        Raises:
            UsageError: this hub knows no such thing.
        """
        ...

    def tags(self, repo: str) -> dict[str, str]:
        """Commit of every tag."""
        ...

    def tag(self, repo: str, tag: str, commit: str) -> None:
        """Names a commit, for good.

        Raises:
            ConflictError: the tag names another commit.
        """
        ...

    def repos(self, search: Search, limit: int) -> list[RepoInfo]:
        """The repositories of SAEs that fit, newest first, at most `limit`."""
        ...

    def url(self, repo: str) -> str:
        """Where a person finds a repository."""
        ...
