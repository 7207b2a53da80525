"""Hugging Face, or another server that speaks its protocol, as a place for SAEs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from hsae_hub import __version__
from hsae_hub.errors import ConflictError, NetworkError, UsageError
from hsae_hub.hub.cache import PREFIX, Cache
from hsae_hub.hub.faults import Patience, explained, local_fault
from hsae_hub.hub.header import read_remote_header
from hsae_hub.hub.places import Entry, OnBytes, Proposal, RepoInfo, Search, Tensor
from hsae_hub.hub.upload import Change, landed, proposed, send
from hsae_hub.hub.waiting import wait_for_lock

_LOOKED_AT = 20_000  # repositories of one search, at most

T = TypeVar("T")


class HuggingFace:
    """A `Place` behind huggingface_hub, in its own cache; `endpoint` None is the one that package is set to.

    Without `token` the saved one is used, but never sent to an endpoint that was named here.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        token: str | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        from huggingface_hub import HfApi, constants, get_token

        self.name = (endpoint or constants.ENDPOINT).rstrip("/")
        own = endpoint is None or self.name in (constants.ENDPOINT, "https://huggingface.co")
        _check_address(self.name, bool(token or (own and get_token())))
        self.cache = Cache(cache_dir or Path(constants.HF_HUB_CACHE))
        self._api = HfApi(
            endpoint=self.name,
            token=token or (None if own else False),
            library_name="hsae-hub",
            library_version=__version__,
        )
        self._patience = Patience()

    def resolve(self, repo: str, revision: str | None) -> str:
        if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
            return revision
        info = self._ask(repo, revision, lambda: self._api.model_info(repo, revision=revision))
        if info.sha is None:
            raise NetworkError(f"{self.name} does not say which commit {repo} is at")
        return str(info.sha)

    def tree(self, repo: str, commit: str) -> list[Entry]:
        def ask() -> list[Entry]:
            return [
                _entry(item)
                for item in self._api.list_repo_tree(repo, revision=commit, recursive=True)
                if hasattr(item, "size")
            ]

        return self._ask(repo, commit, ask)

    def fetch(
        self,
        repo: str,
        commit: str,
        entry: Entry,
        *,
        again: bool = False,
        on_bytes: OnBytes | None = None,
    ) -> Path:
        arrived = 0

        def count(number: int) -> None:
            nonlocal arrived
            arrived += number
            if on_bytes is not None:
                on_bytes(number)

        def moved() -> bool:
            nonlocal arrived
            before, arrived = arrived, 0
            return before > 0

        def ask() -> str:
            self._wait_for_others(repo, entry)
            return self._api.hf_hub_download(
                repo,
                entry.path,
                revision=commit,
                cache_dir=self.cache.root,
                force_download=again,
                tqdm_class=_counter(count),
            )

        try:
            return Path(self._patience.call(ask, moved))
        except Exception as error:
            here = local_fault(error, f"{entry.path} of {repo}", self.cache.root)
            told = here or explained(error, repo, commit, self.name, entry.path)
            if told is None or told is error:
                raise
            raise told from error

    def _wait_for_others(self, repo: str, entry: Entry) -> None:
        """Waits for who fetches the same content, by the client's own lock: the client itself would wait for ever."""
        name = entry.digest
        folder = f"{PREFIX}{repo.replace('/', '--')}"
        wait_for_lock(
            self.cache.root / ".locks" / folder / f"{name}.lock",
            self.cache.repo(repo) / "blobs" / f"{name}.*.incomplete",
            f"{entry.path} of {repo}",
        )

    def tensors(self, repo: str, commit: str, entry: Entry) -> list[Tensor]:
        def ask() -> list[Tensor]:
            def read(start: int, stop: int) -> bytes:
                return self._read(repo, commit, entry.path, start, stop)

            return read_remote_header(read, entry.size, f"{entry.path} of {repo}").tensors

        return self._ask(repo, commit, ask, entry.path)

    def _read(self, repo: str, commit: str, path: str, start: int, stop: int) -> bytes:
        """Some bytes of a file; no more are taken of a server that sends all of it."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            get_session,
            hf_raise_for_status,
        )

        url = hf_hub_url(repo, path, revision=commit, endpoint=self.name)
        headers = self._api._build_hf_headers() | {
            "Range": f"bytes={start}-{stop - 1}",
            "Accept-Encoding": "identity",
        }
        with get_session().stream("GET", url, headers=headers, follow_redirects=True) as answer:
            hf_raise_for_status(answer)
            found, left = b"", start if answer.status_code == 200 else 0
            for block in answer.iter_bytes(chunk_size=4096):
                found += block
                if len(found) >= left + stop - start:
                    break
        return found[left : left + stop - start]

    def is_private(self, repo: str) -> bool:
        return bool(self._ask(repo, None, lambda: self._api.model_info(repo)).private)

    def create(self, repo: str, *, private: bool) -> str | None:
        tried: list[bool] = []

        def ask() -> None:
            again = bool(tried)  # after a lost answer the repository may be there: the caller's own
            tried.append(True)
            self._api.create_repo(repo, private=private, exist_ok=again)

        self._ask(repo, None, ask)
        return self.resolve(repo, None)

    def commit(
        self,
        repo: str,
        add: Mapping[str, Path | bytes],
        remove: Sequence[str],
        *,
        message: str,
        parent: str | None,
    ) -> str:
        change = Change(repo, add, remove, message, parent)
        tried: list[bool] = []

        def ask() -> str:
            made = landed(self._api, change, lambda at: self.tree(repo, at)) if tried else None
            tried.append(True)
            return made or str(send(self._api, change).oid)

        return self._ask(repo, None, ask)

    def propose(
        self,
        repo: str,
        add: Mapping[str, Path | bytes],
        remove: Sequence[str],
        *,
        message: str,
        parent: str,
    ) -> Proposal:
        change = Change(repo, add, remove, message, parent)

        def ask() -> Proposal:
            made = proposed(self._api, change, lambda at: self.tree(repo, at))
            if made is None:
                sent = send(self._api, change, create_pr=True)
                made = Proposal(str(sent.oid), str(sent.pr_url))
            return made

        return self._ask(repo, None, ask)

    def tags(self, repo: str) -> dict[str, str]:
        refs = self._ask(repo, None, lambda: self._api.list_repo_refs(repo))
        return {tag.name: tag.target_commit for tag in refs.tags}

    def tag(self, repo: str, tag: str, commit: str) -> None:
        def ask() -> None:
            self._api.create_tag(repo, tag=tag, revision=commit, exist_ok=True)

        self._ask(repo, commit, ask)
        named = self.tags(repo).get(tag)  # an existing tag stays where it is, without an error
        if named != commit:
            raise ConflictError(f"tag {tag} of {repo} names {str(named)[:12]}, not {commit[:12]}")

    def repos(self, search: Search, limit: int) -> list[RepoInfo]:
        def ask() -> list[RepoInfo]:
            listed = self._api.list_models(
                filter=search.tags(),
                sort="last_modified",
                expand=["lastModified", "private", "sha", "tags"],
            )
            found = map(_repo_info, islice(listed, _LOOKED_AT))
            return list(islice(filter(search.fits, found), limit))

        return self._ask("SAEs", None, ask)

    def url(self, repo: str) -> str:
        return f"{self.name}/{repo}"

    def _ask(
        self, repo: str, revision: str | None, attempt: Callable[[], T], path: str = "a file"
    ) -> T:
        try:
            return self._patience.call(attempt)
        except Exception as error:
            told = explained(error, repo, revision, self.name, path)
            if told is None or told is error:
                raise
            raise told from error


def _repo_info(model: Any) -> RepoInfo:
    updated = model.last_modified.isoformat(timespec="seconds") if model.last_modified else ""
    return RepoInfo(model.id, bool(model.private), model.sha, updated, tuple(model.tags or ()))


def _check_address(name: str, has_token: bool) -> None:
    """Raises UsageError where a token, or a password in the address itself, could be seen by others."""
    host = urlsplit(name)
    if host.username or host.password:
        raise UsageError(
            f"the address of {host.hostname} has a name or password in it",
            fix=f"{host.scheme}://{host.hostname}, and HF_TOKEN",
        )
    loopback = host.hostname in ("127.0.0.1", "localhost", "::1")
    if has_token and host.scheme == "http" and not loopback:
        raise UsageError(
            f"a token would go to {name} unencrypted",
            fix=f"https://{host.netloc}\nor without a token: unset HF_TOKEN, hf auth logout",
        )


def _entry(item: Any) -> Entry:
    if item.lfs is not None:
        return Entry(item.path, item.lfs.size, sha256=item.lfs.sha256)
    return Entry(item.path, item.size, git_sha1=item.blob_id)


def _counter(on_bytes: OnBytes | None) -> Any:
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Counter(tqdm):
        """A bar that shows nothing and passes on what it is told."""

        def __init__(self, *args: Any, **options: Any) -> None:  # tqdm's own signature
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: int | float | None = 1) -> None:
            if on_bytes is not None and n:
                on_bytes(int(n))

    return Counter
