"""SAEs of other toolkits on a hub: known from the names of their files, before any of them is fetched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath

from hsae_hub.artifact import CONFIG, WEIGHTS
from hsae_hub.errors import NotFoundError, UsageError
from hsae_hub.hub.places import Entry, Place
from hsae_hub.hub.refs import Ref, is_safe_path
from hsae_hub.interop import Format, format_named, needs, recognise
from hsae_hub.problems import nearest

_SHOWN = 3


class ForeignSAE(UsageError):
    """Raised where one of this package's SAEs is asked for and a reference names one of another toolkit."""

    def __init__(self, ref: Ref, commit: str, format: Format, files: tuple[Entry, ...]) -> None:
        super().__init__(
            f"{ref} is an SAE of {format.title}, not of this package",
            why="hsae import writes it as one of this package's; hsae_hub.load reads it as it is",
            fix=f"hsae import {ref} DIR" + " --allow-pickle" * format.pickled,
        )
        self.ref, self.commit, self.format, self.files = ref, commit, format, files


def refuse_foreign(place: Place, ref: Ref, commit: str, ours: Mapping[str, Entry]) -> None:
    """Says what a reference names, if that is not an SAE of this package; `ours` are the files that a pull may take.

    Raises:
        ForeignSAE: one of another toolkit, wholly here.
        NotFoundError: a repository, or folder, that holds such SAEs further down.
    """
    if {ref.path(CONFIG), ref.path(WEIGHTS)} <= ours.keys():
        return
    tree = _tree(place, ref, commit)
    found = _format_at(ref, tree)
    if found is not None:
        raise ForeignSAE(ref, commit, found, _files(ref, found, tree))
    folders = _folders(ref, tree)
    if not folders:
        return
    titles = ", ".join(sorted({each.title for each in folders.values()}))
    near = nearest(ref.subfolder or "", list(folders))
    raise NotFoundError(
        f"no SAE {f'in {ref.subfolder}/' if ref.subfolder else 'at the root'} of {ref.at}{near}",
        why=f"it has {len(folders)} of {titles} in folders of their own",
        fix="\n".join(
            f"hsae import {ref.at}:{folder} DIR" + " --allow-pickle" * each.pickled
            for folder, each in list(folders.items())[:_SHOWN]
        ),
    )


def as_foreign(place: Place, ref: Ref, commit: str, name: str) -> ForeignSAE:
    """The SAE that a reference names, in the format that the user says.

    Raises:
        UsageError: there is no such format.
    """
    found, tree = format_named(name), _tree(place, ref, commit)
    return ForeignSAE(ref, commit, found, _files(ref, found, tree))


def _tree(place: Place, ref: Ref, commit: str) -> dict[str, Entry]:
    entries = place.tree(str(ref.repo), commit)
    return {entry.path: entry for entry in entries if is_safe_path(entry.path)}


def _names(folder: str, tree: Mapping[str, Entry]) -> frozenset[str]:
    """Names in a folder of a repository, as `recognise` takes them."""
    start = f"{folder}/" if folder else ""
    inside = [path.removeprefix(start).split("/", 1) for path in tree if path.startswith(start)]
    return frozenset(part[0] + "/" * (len(part) > 1) for part in inside)


def _format_at(ref: Ref, tree: Mapping[str, Entry]) -> Format | None:
    if ref.subfolder in tree:
        return recognise(frozenset({PurePosixPath(str(ref.subfolder)).name}))
    return recognise(_names(ref.subfolder or "", tree))


def _files(ref: Ref, format: Format, tree: Mapping[str, Entry]) -> tuple[Entry, ...]:
    """What reading takes of a folder, or the one file that a reference names."""
    at = ref.subfolder or ""
    if at in tree:
        return (tree[at],)
    above = PurePosixPath(at).parent
    start = f"{at}/" if at else ""
    beside = {str(above / name.removeprefix("../")) for name in format.files if name[:3] == "../"}
    return tuple(
        entry
        for path, entry in tree.items()
        if (path.startswith(start) and needs(format, path.removeprefix(start)))
        or (at and path in beside)
    )


def _folders(ref: Ref, tree: Mapping[str, Entry]) -> dict[str, Format]:
    """Folders, below the one that a reference names, that hold an SAE of another toolkit."""
    names: dict[str, set[str]] = defaultdict(set)
    for path in tree:
        parts = PurePosixPath(path).parts
        for depth in range(len(parts)):
            names["/".join(parts[:depth])].add(parts[depth] + "/" * (depth + 1 < len(parts)))
    found = {folder: recognise(frozenset(inside)) for folder, inside in sorted(names.items())}
    start = f"{ref.subfolder}/" if ref.subfolder and ref.subfolder in names else ""
    return {
        folder: each
        for folder, each in found.items()
        if each is not None and folder.startswith(start)
    }
