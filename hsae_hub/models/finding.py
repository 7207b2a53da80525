"""Where a language model lies, and what an error on the way to it means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from hsae_hub.assets import EMBEDDED_MODEL, embedded_model
from hsae_hub.errors import CorruptError, DeniedError, HSAEError, NetworkError, NotFoundError
from hsae_hub.problems import nearest

_UNREACHABLE = (
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionResolutionError,
    ConnectionError,
)


class Place(NamedTuple):
    """What transformers is handed."""

    name: str
    """As the user knows it."""
    path: str
    """A folder, or a repository on the hub."""
    commit: str | None
    """Commit of the repository."""


def locate(source: str, revision: str | None) -> Place:
    """Finds a model by the embedded one's name, by folder or by repository, and pins the repository's commit.

    Raises:
        NotFoundError: no such folder, repository or revision.
        DeniedError: its licence has to be accepted first, or a token is missing.
        NetworkError: the hub cannot be reached, or is not to be asked, and the cache lacks the model.
    """
    if source == EMBEDDED_MODEL:
        return Place(source, str(embedded_model()), None)
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise NotFoundError(f"no config.json in {folder}", why="it is no language model")
        return Place(source, str(folder), None)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source):
        raise NotFoundError(f"no folder {source}{_nearest(source)}")
    try:
        config = Path(hf_hub_download(source, "config.json", revision=revision))
    except (OSError, RevisionResolutionError) as error:
        raise explained(error, source, revision) from error
    return Place(source, source, config.parent.name)


def explained(error: BaseException, name: str, revision: str | None = None) -> HSAEError:
    """What went wrong between us and a model, from transformers' or the hub client's error."""
    causes = list(_chain(error))
    page = f"{constants.ENDPOINT}/{name}"
    at = f" at revision {revision}" if revision else ""
    for cause in causes:
        if isinstance(cause, GatedRepoError):
            return DeniedError(
                f"{name} is gated",
                why="its licence has to be accepted once, by a user who is logged in",
                fix=f"accept it on {page}\nhf auth login\nor work on saved activations: sae(x)",
            )
        if isinstance(cause, RevisionNotFoundError):
            return NotFoundError(f"{name} has no revision {revision!r}", fix=f"see {page}/commits")
        if isinstance(cause, RepositoryNotFoundError):
            return NotFoundError(
                f"no model {name} on the hub{_nearest(name)}",
                why="it does not exist, or it is private and your token does not see it",
                fix=f"hf auth login\nor the model that is here already: {EMBEDDED_MODEL}",
            )
        if isinstance(cause, RemoteEntryNotFoundError):
            return NotFoundError(
                f"{name}{at} is no language model of transformers: {cause.args[0]}"
            )
    if any(isinstance(cause, _UNREACHABLE) for cause in causes):
        offline = constants.HF_HUB_OFFLINE
        return NetworkError(
            f"{name}{at} is not in the cache, and the hub "
            + ("is not asked" if offline else "cannot be reached")
            + _nearest(name),
            why="HF_HUB_OFFLINE is set" if offline else str(causes[-1]).split("\n")[0],
            fix=f"in the cache: {', '.join(_at_hand())}",
        )
    if any(isinstance(cause, HfHubHTTPError) for cause in causes):
        return NetworkError(f"the hub would not give {name}: {_first_line(error)}")
    return CorruptError(f"{name}{at} cannot be loaded: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _at_hand() -> list[str]:
    cached = Path(constants.HF_HUB_CACHE).glob("models--*")
    names = sorted(path.name.removeprefix("models--").replace("--", "/") for path in cached)
    return [EMBEDDED_MODEL, *names]


def _nearest(name: str) -> str:
    return nearest(name, _at_hand())
