"""What of a folder is published: of an SAE, of a run, or of a folder of several runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from hsae_hub.artifact import (
    CONFIG,
    NAME,
    REPORTS,
    STATS,
    WEIGHTS,
    Member,
    check_files,
    file_info,
    read_artifact,
    read_config,
    read_manifest,
)
from hsae_hub.card import CARD, GALLERY, Run, home_of
from hsae_hub.errors import CorruptError, NotFoundError, UsageError
from hsae_hub.features import FOLDER as FEATURES
from hsae_hub.features import INDEX, INDEX_TABLES, FeatureIndex
from hsae_hub.hub.refs import is_safe_path
from hsae_hub.recipes import without_paths

LICENSE = "LICENSE"
_OF_RUN = ("SUMMARY.json", "env.json", "recipe.yaml", "resolved.yaml")
_OF_SAE = (CONFIG, WEIGHTS, STATS, *_OF_RUN, GALLERY)
BINARY = (".safetensors", ".parquet")
_LARGEST_TEXT = 10_000_000  # bytes; Hugging Face takes a text of more for a weight file

Content = Path | bytes

OnProgress = Callable[[int, int], None]
"""Told bytes that are done, and of how many."""


class Source(NamedTuple):
    """An SAE in a folder of this machine."""

    folder: Path
    files: dict[str, Content]
    """What is published of it, by path in its folder."""

    def member(self) -> Member:
        """What a collection's manifest says of it."""
        config = read_config(self.folder)
        weights = dict(config.files)
        if config.baseline is not None and f"{config.baseline}/{CONFIG}" in self.files:
            beside = read_config(self.folder / config.baseline).files
            weights |= {f"{config.baseline}/{name}": info for name, info in beside.items()}
        return Member.of(config, file_info(self.folder / CONFIG), weights)


class Sources(NamedTuple):
    """What is published of a folder."""

    saes: dict[str, Source]
    """By the names of their folders in a collection; a single SAE lies at the root and has the name ``."""
    root: dict[str, Content]
    """Files beside them, but for the card."""
    left_out: tuple[str, ...]
    """What lies in the folder and is not published."""

    @property
    def is_collection(self) -> bool:
        """Whether they go into folders of their own."""
        return "" not in self.saes

    def files(self) -> dict[str, Content]:
        """Everything by its path in the repository, but for the card and a manifest."""
        found = dict(self.root)
        for name, source in self.saes.items():
            found |= {f"{name}/{path}" if name else path: c for path, c in source.files.items()}
        return found


def is_published(path: str) -> bool:
    """Whether a file of this path in an SAE's folder can only be from a push, so that a push may take it away."""
    own = path in _OF_SAE or path == CARD
    return own or bool(
        re.fullmatch(
            r"eval/[^/]+\.json|features/(index\.json|[^/]+\.parquet)|baseline/(config\.json|[^/]+\.safetensors)",
            path,
        )
    )


def collect(folder: Path, name: str | None = None) -> Sources:
    """Finds what is published of a folder: its one SAE, under `name` in a collection if that is given, or every
    finished run in it, those of `also` included. Nothing is read but configs.

    Raises:
        NotFoundError: there is no SAE in it.
        CorruptError: a config cannot be read.
        UsageError: a symbolic link among what would be published, or a name that cannot be one.
    """
    root: dict[str, Content] = {LICENSE: folder / LICENSE} if (folder / LICENSE).exists() else {}
    if (folder / CONFIG).is_file() and read_manifest(folder) is None:
        saes = {name or "": folder}
    elif name is not None:
        raise NotFoundError(f"no SAE in {folder}", why=f"{name} names the one SAE of a folder")
    else:
        saes = _runs_in(folder)
    for link in (folder / LICENSE, folder / CARD):
        if link.is_symlink():
            raise _is_link(link)
    sources = {name: Source(path, _files_of(path)) for name, path in sorted(saes.items())}
    found = Sources(sources, root if name is None else {}, ())
    top = {path.relative_to(folder).parts[0] for path in saes.values() if path != folder}
    top |= {path.partition("/")[0] for path in found.files()} if name or "" in saes else set()
    top |= {LICENSE, CARD} if name is None else set()
    left_out = [p.name + "/" * p.is_dir() for p in folder.iterdir() if p.name not in top]
    return found._replace(left_out=tuple(sorted(left_out)))


def check_content(sources: Sources, on_progress: OnProgress | None = None) -> None:
    """Reads everything that would be published: hashes, shapes, every value of every weight, JSON.

    `on_progress` is told the bytes of weights that were read, and all of them.

    Raises:
        CorruptError: a file is not what its config says, a weight is not finite, a text is no JSON.
        UsageError: a text is too large.
    """
    folders = [
        (source.folder / path).parent
        for source in sources.saes.values()
        for path in source.files
        if path.rpartition("/")[2] == CONFIG
    ]
    configs = [read_config(folder) for folder in folders]
    sizes = [sum(info.size for info in config.files.values()) for config in configs]
    for number, (folder, config) in enumerate(zip(folders, configs, strict=True)):
        if on_progress is not None:
            on_progress(sum(sizes[:number]), sum(sizes))
        check_files(folder, config)
        read_artifact(folder, verify=False)  # reads every value: each has to be finite
    for source in sources.saes.values():
        if f"{FEATURES}/{INDEX}" in source.files:
            _check_index(source.folder)
    for content in sources.files().values():
        if isinstance(content, Path) and content.suffix not in BINARY:
            _check_text(content)


def _runs_in(folder: Path) -> dict[str, Path]:
    """Every SAE in the folders of a folder: `run`, and beside it `run-name` for those of its `also`."""
    found: dict[str, Path] = {}
    for run in sorted(folder.iterdir()) if folder.is_dir() else ():
        if run.name.startswith(".") or not (run / CONFIG).is_file():
            continue
        if run.is_symlink():
            raise _is_link(run)
        found[run.name] = run
        for other in sorted(run.iterdir()):
            if (other / CONFIG).is_file() and home_of(other)[0] == run:
                found[_beside(run.name, other.name)] = other
    if not found:
        raise NotFoundError(
            f"no {CONFIG} in {folder}, nor in a folder of it", why="it holds no saved SAE"
        )
    for name, path in found.items():
        if not re.fullmatch(NAME, name):
            raise UsageError(
                f"{name!r} cannot be the name of an SAE in a collection",
                why="letters, digits, '-', '_', '+' and '.'",
                fix=f"rename {path}",
            )
    return found


def _beside(run: str, name: str) -> str:
    seeded = re.fullmatch(r".+(-seed\d+)", run)  # as a suite names its runs
    return name + seeded[1] if seeded else f"{run}-{name}"


def _files_of(folder: Path) -> dict[str, Content]:
    config = read_config(folder)
    home, _ = home_of(folder)
    names = {*_OF_SAE, *config.files}
    names |= {f"{REPORTS}/{path.name}" for path in (folder / REPORTS).glob("*.json")}
    names |= {f"{FEATURES}/{name}" for name in (INDEX, *INDEX_TABLES)}
    if config.baseline is not None and (folder / config.baseline / CONFIG).is_file():
        baseline = read_config(folder / config.baseline)
        names |= {f"{config.baseline}/{name}" for name in (CONFIG, *baseline.files)}
    found: dict[str, Content] = {}
    for name in sorted(filter(is_safe_path, names)):
        path = (home if name in _OF_RUN else folder) / name
        behind = path.parent if path.parent not in (folder, home) else path
        if path.is_symlink() or (path.is_file() and behind.is_symlink()):
            raise _is_link(path if path.is_symlink() else behind)
        if path.is_file():
            found[name] = path
    if home != folder:
        found |= Run(folder).report_files()
    return found | _without_paths(found)


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


def _check_text(path: Path) -> None:
    size = path.stat().st_size
    if size > _LARGEST_TEXT:
        raise UsageError(f"{path} has {size} bytes, expected at most 10 MB")
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"{path} is not JSON: {error}") from None


def _check_index(folder: Path) -> None:
    """Makes sure that an index is whole and about these weights."""
    found = FeatureIndex.open(folder).info["weights"]
    expected = read_config(folder).files[WEIGHTS].sha256
    if found != expected:
        raise CorruptError(
            f"{folder / FEATURES} is the index of other weights: {found[:12]}…, here {expected[:12]}…",
            fix=f"hsae index {folder}\nor remove {folder / FEATURES}",
        )


def _is_link(path: Path) -> UsageError:
    return UsageError(
        f"{path.name} in {path.parent} is a symbolic link; a push publishes files only",
        why="a link may lead anywhere",
        fix="put a copy of the file in its place",
    )
