"""One commit, sent to Hugging Face in one request after its contents, and recognised if its answer is lost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hsae_hub.errors import ConflictError
from hsae_hub.hub.places import MAIN, Entry, Proposal, same_content

TreeOf = Callable[[str], list[Entry]]
"""The files of a commit."""


class Change(NamedTuple):
    """What a commit is to do."""

    repo: str
    add: Mapping[str, Path | bytes]
    remove: Sequence[str]
    message: str
    parent: str | None
    """The newest commit, as far as its author knows."""

    def is_in(self, files: list[Entry]) -> bool:
        """Whether these files are what it leads to."""
        tree = {entry.path: entry for entry in files}
        ours = all(p in tree and same_content(content, tree[p]) for p, content in self.add.items())
        return ours and not tree.keys() & set(self.remove)


def send(api: Any, change: Change, *, create_pr: bool = False) -> Any:
    """Sends a commit by `create_commit`, which makes one over LFS and Xet; `upload_folder` would make several."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [
        CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
        for path, content in change.add.items()
    ]
    operations += [CommitOperationDelete(path, is_folder=False) for path in change.remove]
    with _no_bars(), warnings.catch_warnings():
        # an index belongs to its SAE, though its tables are data files
        warnings.filterwarnings("ignore", message=".*about to commit a data file")
        return api.create_commit(
            change.repo,
            operations,
            commit_message=change.message,
            revision=MAIN,
            parent_commit=change.parent,
            create_pr=create_pr,
        )


def landed(api: Any, change: Change, tree_of: TreeOf) -> str | None:
    """The commit that was made although its answer was lost; None if there is none.

    Raises:
        ConflictError: somebody else made one.
    """
    head = str(api.model_info(change.repo).sha)
    if head == change.parent:
        return None
    if change.is_in(tree_of(head)):
        return head
    raise ConflictError(f"{change.repo} moved to {head[:12]} during the push")


def proposed(api: Any, change: Change, tree_of: TreeOf) -> Proposal | None:
    """An open pull request of just this: its answer was lost, or an earlier push made it."""
    for found in api.get_repo_discussions(change.repo):
        is_open = found.is_pull_request and found.status in ("open", "draft")
        if is_open and found.title == change.message:
            commit = str(api.model_info(change.repo, revision=f"refs/pr/{found.num}").sha)
            if change.is_in(tree_of(commit)):
                return Proposal(commit, found.url)
    return None


@contextmanager
def _no_bars() -> Iterator[None]:
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    before = are_progress_bars_disabled()
    if not before:
        disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
