"""Is an SAE what it is said to be: its bytes, its values, and what was measured of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from hsae_hub.artifact import CONFIG, check_files, read_config
from hsae_hub.errors import CorruptError, HSAEError
from hsae_hub.hub.claims import compare
from hsae_hub.hub.fetching import Fetched, OnProgress, difference
from hsae_hub.hub.locate import locate, not_whole
from hsae_hub.hub.places import Check, Place, same_content
from hsae_hub.hub.pull import check_sae, wanted_files
from hsae_hub.hub.refs import Ref
from hsae_hub.hub.values import count_values

if TYPE_CHECKING:
    from hsae_hub.evaluation import CoreReport


class Verified(NamedTuple):
    """Everything that was looked at."""

    ref: str
    commit: str | None
    """None for a folder."""
    folder: Path
    checks: tuple[Check, ...]
    causes: tuple[str, ...]
    """Why a measurement may differ from what is claimed."""

    @property
    def passed(self) -> bool:
        """Whether nothing was found wrong."""
        return all(check.passed is not False for check in self.checks)


def verify(
    place: Place, ref: Ref, report: CoreReport | None = None, on_progress: OnProgress | None = None
) -> Verified:
    """Looks at every byte of a pulled SAE, which is pulled first if it is not here; see `Hub.verify`.

    Raises:
        NotFoundError: no such repository, revision, or SAE in it.
        DeniedError: it may not be seen.
        NetworkError: the hub cannot be reached and the cache does not hold all of it.
    """
    repo = str(ref.repo)
    located = commit, tree, error = locate(place, ref)
    fetched = Fetched(place, repo, commit, offline=error, on_progress=on_progress)
    wanted = wanted_files(ref, located, fetched)
    snapshot = place.cache.snapshot(repo, commit)
    here = {path for path in wanted if (snapshot / path).is_file()}
    if error is not None and wanted.keys() - here:
        raise not_whole(ref, commit, wanted.keys() - here, error)
    fetched.total = sum(entry.size for path, entry in wanted.items() if path not in here)
    for path in sorted(wanted.keys() - here):
        fetched.get(wanted[path])
    wrong = {
        path: difference(snapshot / path, entry)
        for path, entry in sorted(wanted.items())
        if not same_content(snapshot / path, entry)
    }
    told = f"{len(wanted)} files, each with the hub's hash"
    checks = [Check("files", not wrong, _listed(wrong) or told)]
    folders = [PurePosixPath(p).parent for p in wanted if PurePosixPath(p).name == CONFIG]
    if not wrong:
        for at in folders:
            name = str(at / CONFIG)
            checks.append(_tried(name, partial(check_sae, snapshot, at, tree, ref)))
    if all(check.passed for check in checks):
        checks.append(_values([snapshot / f for f in folders]))
    folder = snapshot / (ref.subfolder or "")
    return _with_report(str(ref), commit, folder, checks, report)


def verify_folder(folder: Path, report: CoreReport | None = None) -> Verified:
    """Looks at every byte of an SAE in a folder; see `Hub.verify`.

    Raises:
        NotFoundError: the folder holds no SAE.
        CorruptError: its config cannot be read.
    """
    folders = [folder]
    named = read_config(folder).baseline
    if named is not None and (folder / named / CONFIG).is_file():
        folders.append(folder / named)
    checks = [
        _tried(str((each / CONFIG).relative_to(folder)), partial(_check_folder, each))
        for each in folders
    ]
    if all(check.passed for check in checks):
        checks.append(_values(folders))
    return _with_report(str(folder), None, folder, checks, report)


def _check_folder(folder: Path) -> None:
    check_files(folder, read_config(folder))


def _tried(name: str, check: Callable[[], None]) -> Check:
    try:
        check()
    except HSAEError as error:
        return Check(name, False, error.message + (f" ({error.why})" if error.why else ""))
    return Check(name, True, "hashes, shapes and types agree")


def _listed(wrong: dict[str, str]) -> str:
    return "; ".join(f"{path} {told}" for path, told in wrong.items())


def _values(folders: list[Path]) -> Check:
    """Whether every weight is finite."""
    count = 0
    bad: dict[str, str] = {}
    for path in [folder / name for folder in folders for name in read_config(folder).files]:
        try:
            found, wrong = count_values(path)
        except CorruptError as error:
            bad[path.name] = error.message
            continue
        count += found
        for name, values in wrong.items():
            bad[f"{path.name}: {name}"] = f"has {values:,} values that are not finite"
    return Check("values", not bad, _listed(bad) or f"{count:,} values, all of them finite")


def _with_report(
    ref: str, commit: str | None, folder: Path, checks: list[Check], report: CoreReport | None
) -> Verified:
    causes: list[str] = []
    if all(check.passed for check in checks):
        compared, causes = compare(folder, report)
        checks = [*checks, *compared]
    return Verified(ref, commit, folder, tuple(checks), tuple(causes))
