"""Publishes the folder of a run: what is in it is checked first; it appears in one commit or not at all."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hsae_hub.artifact import CONFIG, STATS, WEIGHTS, check_files, read_artifact, read_config
from hsae_hub.card import CARD, check_card, is_rendered, render_card
from hsae_hub.errors import (
    CheckFailedError,
    ConflictError,
    CorruptError,
    NotFoundError,
    UsageError,
)
from hsae_hub.hub.places import Entry, Place, same_content
from hsae_hub.hub.pull import fetch_checked
from hsae_hub.hub.refs import check_tag, is_safe_path
from hsae_hub.recipes import without_paths

_log = logging.getLogger(__name__)

PUBLISHED = (
    CONFIG,
    CARD,
    "LICENSE",
    WEIGHTS,
    STATS,
    "SUMMARY.json",
    "recipe.yaml",
    "resolved.yaml",
)
"""What is published of a folder, beside `eval/*.json` and its baseline's config and weights. Nothing else ever is."""
_LARGEST_TEXT = 10_000_000  # bytes; Hugging Face takes a text of more for a weight file

Content = Path | bytes


class Plan(NamedTuple):
    """What a push changes."""

    add: tuple[str, ...]
    change: tuple[str, ...]
    remove: tuple[str, ...]
    """Files of an earlier push that this folder no longer has."""
    same: tuple[str, ...]
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
    repo: str,
    *,
    public: bool = False,
    tag: str | None = None,
    message: str | None = None,
    license: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Publishes a folder as the newest commit of a repository, which is made if it is not there.

    Raises:
        UsageError: a symbolic link among the files, or the repository's visibility is not the one asked for.
        NotFoundError: the folder holds no SAE.
        CorruptError: a file is not what its config says, a weight is not finite, or the hub gave something else back.
        CheckFailedError: the card lacks something.
        ConflictError: the repository changed meanwhile, or the tag names another commit.
        DeniedError: the token may not write there.
        NetworkError: the hub cannot be reached.
    """
    if tag is not None:
        check_tag(tag)
    files: dict[str, Content] = dict(collect(folder))
    _check_content(folder, files)
    head, tree = _remote(place, repo)
    if tree is not None:
        _check_visibility(place, repo, public)
    files[CARD] = _card(place, folder, repo, license, head, tree or {})
    files |= _without_paths(files)
    plan = _plan(folder, files, tree or {})
    if tag is not None:
        _check_tag_is_free(place, repo, tag, head if tree is not None else None, plan, tree)
    commit = head
    if not dry_run:
        if tree is None:
            head = place.create(repo, private=not public)
            if place.is_private(repo) == public:
                raise ConflictError(f"{repo} was made by somebody else at this moment")
        if plan.changes:
            add = {path: files[path] for path in (*plan.add, *plan.change)}
            told = message or f"Publish {read_config(folder).sae.architecture} SAE"
            commit = place.commit(repo, add, plan.remove, message=told, parent=head)
            _read_back(place, repo, commit, files)
        if tag is not None and commit is not None:
            place.tag(repo, tag, commit)
    return Pushed(
        repo,
        commit,
        place.url(repo),
        tuple(sorted(files)),
        plan.changes and not dry_run,
        not public,
        tag,
        plan,
    )


def collect(folder: Path) -> dict[str, Path]:
    """The files of a folder that are published, by their path in the repository.

    Raises:
        NotFoundError: there is no SAE in it.
        CorruptError: its config cannot be read.
        UsageError: one of them is a symbolic link or lies behind one.
    """
    config = read_config(folder)
    names = {*PUBLISHED, *config.files}
    names |= {f"eval/{path.name}" for path in (folder / "eval").glob("*.json")}
    if config.baseline is not None and (folder / config.baseline / CONFIG).is_file():
        baseline = read_config(folder / config.baseline)
        names |= {f"{config.baseline}/{name}" for name in (CONFIG, *baseline.files)}
    found = {name: folder / name for name in sorted(names) if is_safe_path(name)}
    found = {name: path for name, path in found.items() if path.is_symlink() or path.is_file()}
    links = [
        name
        for name in found
        if any((folder / part).is_symlink() for part in (name, name.rpartition("/")[0]) if part)
    ]
    if links:
        raise UsageError(
            f"{links[0]} in {folder} is a symbolic link; a push publishes files only",
            why="a link may lead anywhere",
            fix="put a copy of the file in its place",
        )
    return found


def _check_content(folder: Path, files: Mapping[str, Content]) -> None:
    for name in files:
        if name.rpartition("/")[2] == CONFIG:
            sub = (folder / name).parent
            check_files(sub, read_config(sub))
            read_artifact(sub, verify=False)  # reads every value: each has to be finite
    for name, path in files.items():
        if not isinstance(path, Path) or name.endswith(".safetensors"):
            continue
        if path.stat().st_size > _LARGEST_TEXT:
            raise UsageError(f"{path} has {path.stat().st_size} bytes, expected at most 10 MB")
        if name.endswith(".json"):
            try:
                json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise CorruptError(f"{path} is not JSON: {error}") from None


def _without_paths(files: Mapping[str, Content]) -> dict[str, Content]:
    """Recipes that name a place on this machine, as they are published."""
    found: dict[str, Content] = {}
    for name in ("recipe.yaml", "resolved.yaml"):
        path = files.get(name)
        if isinstance(path, Path):
            text = path.read_bytes().decode(errors="surrogateescape")
            if (told := without_paths(text)) != text:
                found[name] = told.encode(errors="surrogateescape")
    return found


def _remote(place: Place, repo: str) -> tuple[str | None, dict[str, Entry] | None]:
    """The newest commit of a repository and its files; no files if it is not there."""
    try:
        head = place.resolve(repo, None)
    except NotFoundError:
        try:
            place.is_private(repo)  # it is there, but nothing was pushed to it yet
        except NotFoundError:
            return None, None
        return None, {}
    return head, {entry.path: entry for entry in place.tree(repo, head)}


def _check_visibility(place: Place, repo: str, public: bool) -> None:
    private = place.is_private(repo)
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


def _card(
    place: Place,
    folder: Path,
    repo: str,
    license: str | None,
    head: str | None,
    tree: Mapping[str, Entry],
) -> bytes:
    own = folder / CARD
    text = own.read_text(encoding="utf-8", errors="replace") if own.is_file() else None
    if text is None or is_rendered(text):
        previous = None
        if head is not None and CARD in tree and tree[CARD].size <= _LARGEST_TEXT:
            try:
                path, _ = fetch_checked(place, repo, head, tree[CARD])
                previous = path.read_text(encoding="utf-8", errors="replace")
            except CorruptError as error:  # a new card is better than none
                _log.warning("%s; its notes are lost", error.message)
        text = render_card(folder, repo=repo, license=license, previous=previous)
    elif license is not None:
        raise UsageError(f"{own} is written by hand; the licence has to be set in it")
    problems = check_card(text)
    if problems:
        raise CheckFailedError(
            f"the card of {folder} lacks something: {problems[0]}",
            why="; ".join(problems[1:]),
            fix=f"edit {own}" if own.is_file() else f"hsae card {folder}",
        )
    return text.encode()


def _plan(folder: Path, files: Mapping[str, Content], tree: Mapping[str, Entry]) -> Plan:
    same = [path for path in files if path in tree and same_content(files[path], tree[path])]
    change = [path for path in files if path in tree and path not in same]
    add = [path for path in files if path not in tree]
    remove = [path for path in tree if path not in files and _is_ours(path)]
    top = {path.partition("/")[0] for path in files}
    left_out = [p.name + "/" * p.is_dir() for p in folder.iterdir() if p.name not in top]
    contents = [files[path] for path in (*add, *change)]
    size = sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in contents)
    return Plan(
        add=tuple(sorted(add)),
        change=tuple(sorted(change)),
        remove=tuple(sorted(remove)),
        same=tuple(sorted(same)),
        left_out=tuple(sorted(left_out)),
        size=size,
    )


def _is_ours(path: str) -> bool:
    """Whether a file on the hub can only be from a push, so that one without it takes it away."""
    own = path in PUBLISHED and path != "LICENSE"
    return own or bool(
        re.fullmatch(r"eval/[^/]+\.json|baseline/(config\.json|[^/]+\.safetensors)", path)
    )


def _check_tag_is_free(
    place: Place,
    repo: str,
    tag: str,
    head: str | None,
    plan: Plan,
    tree: Mapping[str, Entry] | None,
) -> None:
    named = place.tags(repo).get(tag) if tree is not None else None
    if named is not None and (plan.changes or named != head):
        raise ConflictError(
            f"tag {tag} of {repo} names {named[:12]} already; a tag never moves",
            fix="push with another tag",
        )


def _read_back(place: Place, repo: str, commit: str, files: Mapping[str, Content]) -> None:
    tree = {entry.path: entry for entry in place.tree(repo, commit)}
    wrong = [p for p, c in files.items() if p not in tree or not same_content(c, tree[p])]
    if wrong:
        raise CorruptError(
            f"{place.name} has {wrong[0]} of {repo} other than it was sent, at {commit[:12]}",
            why="the file changed during the push, or the hub refused it",
            fix="push it again",
        )
