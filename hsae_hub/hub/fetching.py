"""Files of a commit on this machine, each of them what the hub says, or not there at all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from hsae_hub.errors import CorruptError, NetworkError
from hsae_hub.hub.places import Entry, OnBytes, Place, content_hash, same_content
from hsae_hub.hub.stamps import Stamps, look

_log = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]
"""Told the bytes of the whole pull that are here and checked or arriving, and of how many."""


class Fetched:
    """Files that are here and checked, one after the other, and how far that has come.

    With `offline`, the reason for it, nothing is fetched. `verify` hashes what was found good before, too.
    """

    def __init__(
        self,
        place: Place,
        repo: str,
        commit: str,
        *,
        verify: bool = False,
        offline: NetworkError | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.place, self.repo, self.commit = place, repo, commit
        self.offline = offline
        self.on_progress = on_progress
        self.stamps = Stamps({}) if verify else place.cache.stamps(repo, commit)
        self.done = self.total = 0
        self.healed = False

    def get(self, entry: Entry, *, counted: bool = True) -> Path:
        """The file, checked; `counted` if it is one of those whose progress is told.

        Raises:
            CorruptError: it is not what the hub says, and was not when it was fetched once more.
        """
        arrived = 0

        def on_bytes(count: int) -> None:
            nonlocal arrived
            arrived = min(arrived + count, entry.size)  # a file that came twice counts once
            if counted:
                self._tell(arrived)

        path, again = fetch_checked(
            self.place,
            self.repo,
            self.commit,
            entry,
            on_bytes,
            stamps=self.stamps,
            offline=self.offline,
        )
        self.healed = self.healed or again
        if counted:
            self.done += entry.size
            self._tell(0)
        return path

    def remember(self) -> None:
        """Notes what was checked, so that it is not done again."""
        self.place.cache.remember_stamps(self.repo, self.commit, self.stamps)

    def _tell(self, arriving: int) -> None:
        if self.on_progress is not None:
            self.on_progress(self.done + arriving, self.total)


def fetch_checked(
    place: Place,
    repo: str,
    commit: str,
    entry: Entry,
    on_bytes: OnBytes | None = None,
    *,
    stamps: Stamps | None = None,
    offline: NetworkError | None = None,
) -> tuple[Path, bool]:
    """A local copy of a file whose content is the hub's, and whether it had to be fetched again for that.

    A file that `stamps` hold is not read. With `offline`, the reason for it, a copy that is wrong stays.

    Raises:
        CorruptError: what arrived is not what the hub lists, twice; the copy is removed.
        NetworkError: the hub cannot be, or is not to be, asked for it.
    """
    kept = place.cache.snapshot(repo, commit) / entry.path
    stamps = Stamps({}) if stamps is None else stamps
    if stamps.hold(entry.path, entry.digest, kept):
        return kept, False
    if offline is not None and not kept.is_file():
        raise offline
    found, then = "", None
    for again in (False, True):
        if again and offline is not None:
            then = offline
            break
        try:
            path = (
                kept
                if offline
                else place.fetch(repo, commit, entry, again=again, on_bytes=on_bytes)
            )
        except NetworkError as error:
            if not again:
                raise
            then = error
            break
        seen = look(path)  # None if another pull found it wrong and removed it at this moment
        if seen is not None and same_content(path, entry):
            stamps.add(entry.path, entry.digest, seen)
            return path, again
        found = "is missing" if seen is None else difference(path, entry)
        if offline is None:
            place.cache.evict(path)
            _log.warning("%s of %s is wrong: %s", entry.path, repo, found)
    raise CorruptError(
        f"{entry.path} of {repo} {found}",
        why=f"the copy here was damaged, and {then.message}" if then else "it came twice as this",
        fix=f"hsae pull {repo}    "
        + ("when the hub can be asked" if then else "the wrong copy is removed"),
    )


def difference(path: Path, entry: Entry) -> str:
    """How a file that is not what the hub says differs."""
    size = path.stat().st_size
    if size != entry.size:
        return f"has {size} bytes, expected {entry.size}"
    kind = "sha256" if entry.sha256 is not None else "git's hash"
    return f"has {kind} {content_hash(path, entry)[:12]}…, expected {entry.digest[:12]}…"
