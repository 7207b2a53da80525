"""Publishes the folder of a run, or of several: checked first, then there in one commit or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hsae_hub.artifact import CONFIG, Manifest
from hsae_hub.card import CARD, license_of
from hsae_hub.errors import ConflictError, CorruptError, NotFoundError, UsageError
from hsae_hub.hub.collect import Content, Sources, check_content, collect, is_published
from hsae_hub.hub.merge import Remote, card_of, look, manifest_there, merged
from hsae_hub.hub.places import Place, same_content
from hsae_hub.hub.refs import Ref, check_tag

OnStep = Callable[[str, int, int], None]
"""Told what is done, `checking` or `sending`, the bytes that are done, and of how many."""


class Plan(NamedTuple):
    """What a push changes."""

    add: tuple[str, ...]
    change: tuple[str, ...]
    remove: tuple[str, ...]
    same: tuple[str, ...]
    stays: tuple[str, ...]
    """Files of an earlier push that this one does not have; they stay there unless it is told to prune."""
    left_out: tuple[str, ...]
    """What lies in the folder and is not published."""
    size: int
    """Bytes of the files that are added and changed."""

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.add or self.change or self.remove)


class Pushed(NamedTuple):
    """A folder on the hub."""

    repo: str
    commit: str | None
    """None after a dry run to a repository that is not there yet."""
    url: str
    """Of the repository, or of the pull request."""
    saes: tuple[str, ...]
    """What loads each SAE that was in the folder."""
    files: tuple[str, ...]
    """Paths in the repository."""
    changed: bool
    """Whether a commit was made."""
    private: bool
    tag: str | None
    plan: Plan


def push(
    place: Place,
    folder: Path,
    to: Ref,
    *,
    public: bool = False,
    tag: str | None = None,
    message: str | None = None,
    license: str | None = None,
    prune: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    on_progress: OnStep | None = None,
) -> Pushed:
    """Publishes a folder as the newest commit of a repository, which is made if it is not there.

    Raises:
        UsageError: a symbolic link among the files, the repository's visibility is not the one asked for, it holds
            something else, or something public has no licence.
        NotFoundError: the folder holds no SAE.
        CorruptError: a file is not what its config says, a weight is not finite, or the hub gave something else back.
        CheckFailedError: the card lacks something.
        ConflictError: the repository changed meanwhile, or the tag names another commit.
        DeniedError: the token may not write there.
        NetworkError: the hub cannot be reached.
    """
    repo = str(to.repo)
    if tag is not None:
        check_tag(tag)
        if create_pr:
            raise UsageError("a tag names a commit of the repository, not one that is proposed")
    sources = collect(folder, to.subfolder)
    tell = on_progress or (lambda what, done, total: None)
    check_content(sources, partial(tell, "checking"))
    remote = look(place, repo)
    private = _visibility(remote, public, create_pr)
    there = manifest_there(remote, sources)
    manifest = merged(remote, sources, there, prune=prune and to.subfolder is None)
    files = sources.files()
    if manifest is not None:
        files[CONFIG] = manifest.to_json().encode()
    files[CARD] = card_of(remote, sources, folder, manifest, license)
    _check_license(files[CARD], private)
    stale = _stale(remote, files, there, manifest, sources)
    plan = _plan(remote, files, stale, sources.left_out, prune)
    if tag is not None:
        _check_tag_is_free(remote, tag, plan)
    names = [name for name in sources.saes if name]
    saes = tuple(f"{repo}:{name}" for name in names) or (repo,)
    done = Pushed(
        repo, remote.head, place.url(repo), saes, tuple(sorted(files)), False, private, tag, plan
    )
    if dry_run:
        return done
    commit, head = remote.head, remote.head
    if remote.tree is None:
        head = place.create(repo, private=private)
        if place.is_private(repo) != private:
            raise ConflictError(f"{repo} was made by somebody else at this moment")
    if plan.changes:
        add = {path: files[path] for path in (*plan.add, *plan.change)}
        tell("sending", 0, plan.size)
        told = message or _message(sources)
        if create_pr:
            proposal = place.propose(repo, add, plan.remove, message=told, parent=str(head))
            _read_back(remote, proposal.commit, files)
            return done._replace(commit=proposal.commit, url=proposal.url, changed=True)
        commit = place.commit(repo, add, plan.remove, message=told, parent=head)
        _read_back(remote, commit, files)
    if tag is not None and commit is not None:
        place.tag(repo, tag, commit)
    return done._replace(commit=commit, changed=plan.changes)


def _visibility(remote: Remote, public: bool, create_pr: bool) -> bool:
    """Whether only its owners will see the repository."""
    place, repo = remote.place, remote.repo
    if remote.tree is None:
        if create_pr:
            raise NotFoundError(
                f"no repository {repo} on {place.name} to propose anything to",
                fix=f"hsae push DIR {repo}    makes it",
            )
        return not public
    private = place.is_private(repo)
    if create_pr:
        return private
    if not private and not public:
        raise UsageError(
            f"{repo} is public on {place.name}, but this push is private",
            fix="--public    to publish it to everybody\nor another repository",
        )
    if private and public:
        raise UsageError(
            f"{repo} is private on {place.name}, and a push does not change that",
            fix=f"make it public where it lies: {place.url(repo)}\nor push without --public",
        )
    return private


def _check_license(card: Content, private: bool) -> None:
    assert isinstance(card, bytes)
    if not private and license_of(card.decode()) is None:
        raise UsageError(
            "no licence is stated; what is public without one nobody may use",
            fix="--license cc-by-4.0    or another one",
        )


def _stale(
    remote: Remote,
    files: Mapping[str, Content],
    there: Manifest | None,
    manifest: Manifest | None,
    sources: Sources,
) -> list[str]:
    """Files of an earlier push that this one does not have."""
    gone = [path for path in remote.files if path not in files]
    if manifest is None:
        return [path for path in gone if is_published(path)]
    names = {*sources.saes, *(there.saes.keys() - manifest.saes.keys() if there else ())}
    parts = [(path, *path.partition("/")) for path in gone]
    return [path for path, name, _, rest in parts if name in names and is_published(rest)]


def _plan(
    remote: Remote,
    files: Mapping[str, Content],
    stale: list[str],
    left_out: tuple[str, ...],
    prune: bool,
) -> Plan:
    tree = remote.files
    same = [path for path in files if path in tree and same_content(files[path], tree[path])]
    change = [path for path in files if path in tree and path not in same]
    add = [path for path in files if path not in tree]
    contents = [files[path] for path in (*add, *change)]
    size = sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in contents)
    return Plan(
        add=tuple(sorted(add)),
        change=tuple(sorted(change)),
        remove=tuple(sorted(stale)) if prune else (),
        same=tuple(sorted(same)),
        stays=() if prune else tuple(sorted(stale)),
        left_out=left_out,
        size=size,
    )


def _check_tag_is_free(remote: Remote, tag: str, plan: Plan) -> None:
    named = remote.place.tags(remote.repo).get(tag) if remote.tree is not None else None
    if named is not None and (plan.changes or named != remote.head):
        raise ConflictError(
            f"tag {tag} of {remote.repo} names {named[:12]} already; a tag never moves",
            fix="push with another tag",
        )


def _message(sources: Sources) -> str:
    names = [name for name in sources.saes if name]
    if not names:
        return f"Publish {sources.saes[''].member().architecture} SAE"
    return f"Publish {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if names[3:] else "")


def _read_back(remote: Remote, commit: str, files: Mapping[str, Content]) -> None:
    tree = {entry.path: entry for entry in remote.place.tree(remote.repo, commit)}
    wrong = [p for p, c in files.items() if p not in tree or not same_content(c, tree[p])]
    if wrong:
        raise CorruptError(
            f"{remote.place.name} has {wrong[0]} of {remote.repo} other than it was sent, "
            f"at {commit[:12]}",
            why="the file changed during the push, or the hub refused it",
            fix="push it again",
        )
