"""How an SAE is named: a folder, or `org/name[@revision][:subfolder]` on a hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from hsae_hub.artifact import NAME
from hsae_hub.assets import TINY, embedded_sae
from hsae_hub.errors import UsageError

EXAMPLE = "org/name, org/name@revision, org/name@revision:subfolder, or ./folder"

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(f"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_REPO_LIMIT = 96  # characters, as on Hugging Face


def is_safe_path(path: str) -> bool:
    """Whether a path from a hub stays below the folder it is put in, and hides nothing there."""
    parts = path.split("/")
    return not any(
        part.startswith(".")
        or part != part.strip()
        or not part.isprintable()
        or set(part) & set('\\:*?"<>|')
        for part in parts
    ) and all(parts)


def check_repo(repo: str) -> str:
    """Returns the name of a repository as it was given.

    Raises:
        UsageError: it is not `org/name`.
    """
    plain = _REPO.fullmatch(repo) and "--" not in repo and ".." not in repo
    if not plain or len(repo) > _REPO_LIMIT or repo.endswith(".git"):
        raise UsageError(
            f"{repo!r} is not the name of a repository, expected org/name",
            why="letters, digits, '-', '_' and '.', no '--' or '..', at most 96 characters",
        )
    return repo


def check_target(text: str) -> Ref:
    """Where a push goes: `org/name`, or `org/name:sae` for one SAE of a collection.

    Raises:
        UsageError: it is neither.
    """
    repo, colon, name = text.partition(":")
    if "@" in text:
        raise UsageError(
            f"{text!r} names a revision; a push makes a new one",
            fix=f"{repo.partition('@')[0]} --tag v1    names it",
        )
    if colon and not re.fullmatch(NAME, name):
        raise UsageError(
            f"{name!r} in {text!r} cannot be the name of an SAE in a collection",
            why="letters, digits, '-', '_', '+' and '.'",
        )
    return Ref(check_repo(repo), subfolder=name or None)


def check_tag(tag: str) -> str:
    """Returns a tag as it was given.

    Raises:
        UsageError: it cannot be one, or would be mistaken for a branch or a commit.
    """
    taken = tag == "main" or re.fullmatch(r"[0-9a-f]{40}", tag)
    if taken or "/" in tag or ".." in tag or not _REVISION.fullmatch(tag):
        raise UsageError(f"{tag!r} cannot be a tag, expected such as v1 or 2026-01")
    return tag


class Ref(NamedTuple):
    """What a user wrote, taken apart: a folder, or a repository with what is wanted of it."""

    repo: str | None
    revision: str | None = None
    """Branch, tag or commit; None for the newest."""
    subfolder: str | None = None
    """Folder of one SAE in a repository that holds several."""
    folder: Path | None = None
    """A folder of this machine, in which case everything else is None."""

    @classmethod
    def parse(cls, text: str | Path) -> Ref:
        """Reads a reference; `tiny` is the embedded SAE, `tiny:baseline` the flat one beside it.

        A folder starts with `./`, `../`, `/` or `~`, or is there and holds a `config.json`.

        Raises:
            UsageError: it is neither.
        """
        written = str(text).strip()
        name, _, inner = written.partition(":")
        if name == TINY and (not inner or is_safe_path(inner)):
            return cls(None, folder=embedded_sae() / inner)
        path = Path(written).expanduser()
        starts = ("./", "../", "~", ".\\", "..\\")
        if isinstance(text, Path) or written in (".", "..") or written.startswith(starts):
            return cls(None, folder=path)
        if path.is_absolute() or (written and (path / "config.json").is_file()):
            return cls(None, folder=path)
        found = re.fullmatch(r"([^@:]+)(?:@([^:]*))?(?::(.*))?", written)
        if found is None or not _REPO.fullmatch(found[1]):
            raise _not_a_ref(written)
        repo, revision, subfolder = check_repo(found[1]), found[2], found[3]
        if revision is not None and (".." in revision or not _REVISION.fullmatch(revision)):
            raise UsageError(f"{revision!r} in {written!r} cannot be a revision", fix=EXAMPLE)
        if subfolder is not None:
            subfolder = subfolder.rstrip("/")
            if not is_safe_path(subfolder):
                raise UsageError(f"{subfolder!r} in {written!r} cannot be a subfolder", fix=EXAMPLE)
        return cls(repo, revision, subfolder)

    @property
    def at(self) -> str:
        """The whole repository that it is in: `org/name[@revision]`."""
        return f"{self.repo}@{self.revision}" if self.revision else str(self.repo)

    def __str__(self) -> str:
        if self.repo is None:
            return str(self.folder)
        return f"{self.at}:{self.subfolder}" if self.subfolder else self.at

    def path(self, name: str) -> str:
        """Path inside the repository of a file of this SAE."""
        return f"{self.subfolder}/{name}" if self.subfolder else name


def _not_a_ref(written: str) -> UsageError:
    why, fix = "", EXAMPLE
    on_hub = re.fullmatch(r"https?://[^/]+/([^/?#]+/[^/?#]+).*", written)
    if on_hub:
        why, fix = "an address is not needed", on_hub[1]
    elif Path(written).exists():
        why, fix = (
            "there is a file or folder of that name, but no config.json in it",
            f"./{written}",
        )
    elif re.fullmatch(_PART, written):
        why = "the name of the user or organisation is missing"
    return UsageError(f"{written!r} names no SAE", why=why, fix=fix)
