"""What a push makes of the repository that is there: which SAEs stay, and what its manifest and its card then say."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from hsae_hub.artifact import CONFIG, Manifest, read_config, read_manifest
from hsae_hub.card import CARD, Run, check_card, is_rendered, render_card, render_collection
from hsae_hub.errors import CheckFailedError, CorruptError, NotFoundError, UsageError
from hsae_hub.hub.collect import BINARY, Sources
from hsae_hub.hub.collection import agrees, files_of
from hsae_hub.hub.fetching import fetch_checked
from hsae_hub.hub.locate import may_pull
from hsae_hub.hub.places import Entry, Place, same_content

_log = logging.getLogger(__name__)
_LARGEST_TEXT = 1 << 20  # bytes; larger texts of SAEs that stay are not read for the card


class Remote(NamedTuple):
    """A repository as it is."""

    place: Place
    repo: str
    head: str | None
    """Newest commit; None if there is none."""
    tree: dict[str, Entry] | None
    """Its files by path; None if the repository is not there."""

    @property
    def files(self) -> dict[str, Entry]:
        """Its files by path, none if it is not there."""
        return self.tree or {}

    def fetch(self, path: str) -> Path:
        """A checked copy of one of its files."""
        return fetch_checked(self.place, self.repo, str(self.head), self.files[path])[0]


def look(place: Place, repo: str) -> Remote:
    """Asks what a repository holds.

    Raises:
        DeniedError: it may not be seen.
        NetworkError: the hub cannot be reached.
    """
    try:
        head = place.resolve(repo, None)
    except NotFoundError:
        try:
            place.is_private(repo)  # it is there, but nothing was pushed to it yet
        except NotFoundError:
            return Remote(place, repo, None, None)
        return Remote(place, repo, None, {})
    return Remote(place, repo, head, {entry.path: entry for entry in place.tree(repo, head)})


def manifest_there(remote: Remote, sources: Sources) -> Manifest | None:
    """The manifest of the collection that is there; None where there is none.

    Raises:
        UsageError: it holds something that this push would destroy: another kind of model, a single SAE in the place of
            a collection, or the other way about.
    """
    entry = remote.files.get(CONFIG)
    if entry is None or same_content(sources.files().get(CONFIG, b""), entry):
        return None
    try:
        path = remote.fetch(CONFIG)
        manifest = read_manifest(path.parent)
        if manifest is None:
            read_config(path.parent)
    except CorruptError as error:
        raise UsageError(
            f"{remote.repo} on {remote.place.name} holds something else than SAEs of this package",
            why=error.message,
            fix="push to another repository",
        ) from None
    if manifest is None and sources.is_collection:
        raise UsageError(
            f"{remote.repo} holds a single SAE; a collection cannot take its place",
            fix="push to another repository",
        )
    if manifest is not None and not sources.is_collection:
        raise UsageError(
            f"{remote.repo} is a collection; its SAEs have names",
            why=f"it holds {', '.join(manifest.saes)}",
            fix=f"push to {remote.repo}:NAME    to add this SAE or replace one",
        )
    return manifest


def merged(
    remote: Remote, sources: Sources, there: Manifest | None, *, prune: bool
) -> Manifest | None:
    """The manifest after a push; None for a single SAE. With `prune` only the SAEs of this push are in it."""
    if not sources.is_collection:
        return None
    saes = {name: source.member() for name, source in sources.saes.items()}
    for name, member in (there.saes if there and not prune else {}).items():
        if name in saes:
            continue
        wanted = files_of(member).items()
        if all(agrees(remote.files.get(f"{name}/{path}"), info) for path, info in wanted):
            saes[name] = member
        else:
            _log.warning("%s of %s is not whole any more and leaves its list", name, remote.repo)
    return Manifest(saes=saes)


def card_of(
    remote: Remote,
    sources: Sources,
    folder: Path,
    manifest: Manifest | None,
    license: str | None,
) -> bytes:
    """The card after a push: written anew unless the folder has one that was written by hand.

    Raises:
        UsageError: a licence was given for a card that was written by hand.
        CheckFailedError: it lacks something.
    """
    own = folder / CARD
    is_of_one = any(source.folder == folder for source in sources.saes.values())
    is_own = own.is_file() and is_of_one == (manifest is None)
    text = own.read_text(encoding="utf-8", errors="replace") if is_own else None
    if text is None or is_rendered(text):
        before = _card_there(remote)
        if manifest is None:
            text = render_card(folder, repo=remote.repo, license=license, previous=before)
        else:
            runs = {name: _run(remote, sources, name) for name in sorted(manifest.saes)}
            cards = [text or "", before or ""]
            name = remote.repo.rpartition("/")[2]
            text = render_collection(runs, name, repo=remote.repo, license=license, cards=cards)
    elif license is not None:
        raise UsageError(f"{own} is written by hand; the licence has to be set in it")
    if problems := check_card(text):
        raise CheckFailedError(
            f"the card of {folder} lacks something: {problems[0]}",
            why="; ".join(problems[1:]),
            fix=f"edit {own}" if own.is_file() else f"hsae card {folder}",
        )
    return text.encode()


def _run(remote: Remote, sources: Sources, name: str) -> Run:
    """What is known of an SAE of the collection: here, or from its texts on the hub."""
    if name in sources.saes:
        return Run(sources.saes[name].folder)
    paths = [p for p in remote.files if p.startswith(f"{name}/") and may_pull(p)]
    texts = [p for p in paths if not p.endswith(BINARY)]
    for path in texts:
        if remote.files[path].size <= _LARGEST_TEXT:
            remote.fetch(path)
    return Run(remote.place.cache.snapshot(remote.repo, str(remote.head)) / name)


def _card_there(remote: Remote) -> str | None:
    entry = remote.files.get(CARD)
    if entry is None or entry.size > _LARGEST_TEXT:
        return None
    try:
        return remote.fetch(CARD).read_text(encoding="utf-8", errors="replace")
    except CorruptError as error:  # a new card is better than none
        _log.warning("%s; its notes are lost", error.message)
        return None
