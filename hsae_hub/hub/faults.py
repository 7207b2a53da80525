"""What goes wrong between us and Hugging Face: which faults may pass, and what each of them means to a user.

One passing fault reaches a caller of huggingface_hub as one of six types of exception, some of a transport package
whose name differs between its versions; so types are told by attributes and names, along the chain of causes.
"""

from __future__ import annotations

import errno
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from hsae_hub.errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    HSAEError,
    NetworkError,
    NotFoundError,
    ResourceError,
    UsageError,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")

WAIT_LIMIT = 60.0
"""Seconds that one pull or push spends on tries that bring nothing, and on waiting between tries, in all."""
TRIES = 5
"""Times that one request is made."""
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_PASSING_ERRNO = {
    errno.ECONNRESET,
    errno.ECONNREFUSED,
    errno.ECONNABORTED,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.ESTALE,
    errno.EIO,
}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


_SIZES = (
    r"(?:Consistency check failed.* size|File size mismatch: expected) (\d+)"
    r"(?: but has size| bytes but downloaded) (\d+)"
)


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and everything that led to it."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or now.__context__


def status_of(error: BaseException) -> int | None:
    """Status of the HTTP answer that an exception tells of."""
    for cause in causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed in a moment."""
    if isinstance(error, HSAEError) and not isinstance(error, NetworkError):
        return False
    if _errno_of(error, _FULL | _FORBIDDEN):
        return False
    status = status_of(error)
    if status is not None:
        return status in _PASSING
    for cause in causes(error):
        if _named(cause, "OfflineModeIsEnabled"):
            return False
        if _named(cause, "TransportError") or isinstance(cause, TimeoutError):
            return True
        if isinstance(cause, OSError):
            if cause.errno in _PASSING_ERRNO or "Consistency check failed" in str(cause):
                return True
            if isinstance(cause, ConnectionError) and cause.errno is None:
                return True
        if _is_of_xet(cause):
            return True
    return False


class Patience:
    """Tries again what failed for a passing reason, until `WAIT_LIMIT` is used up."""

    def __init__(self) -> None:
        self.left = WAIT_LIMIT

    def call(self, attempt: Callable[[], T], moved: Callable[[], bool] = lambda: False) -> T:
        """Result of `attempt`, which must be safe to repeat; its last exception when it keeps failing.

        `moved` tells whether bytes have come since it was asked last: the time of such a try was not lost.
        """
        for number in range(1, TRIES + 1):
            began = time.monotonic()
            try:
                return attempt()
            except Exception as error:
                if not moved():
                    self.left -= time.monotonic() - began
                wait = self._wait(error, number)
                if wait is None:
                    raise
                _log.info("%s; trying again in %.1f s", in_short(error), wait)
            self.left -= wait
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _wait(self, error: Exception, number: int) -> float | None:
        if number == TRIES or not is_transient(error):
            return None
        asked = _retry_after(error)
        wait = asked if asked is not None else 2 ** (number - 2) * random.uniform(1, 1.5)
        return wait if wait <= self.left else None


def local_fault(error: BaseException, doing: str, folder: Path) -> HSAEError | None:
    """The package's own error where it is this machine that cannot keep what arrives; `folder` is its cache."""
    if _errno_of(error, _FULL):
        return ResourceError(
            f"no space left for {doing}",
            why=f"the disk of {folder} is full, or a limit on it is reached",
            fix="hsae ls    then hsae rm what is not needed, or HF_HOME on another disk",
        )
    if _errno_of(error, _FORBIDDEN):
        return DeniedError(
            f"{doing}: {folder} cannot be written",
            why=in_short(error),
            fix="HF_HOME (or HSAE_HOME, for a folder hub) on a disk of yours",
        )
    return None


def in_short(error: BaseException) -> str:
    """An exception in a few words, without addresses: those of a content network carry a signature."""
    status = status_of(error)
    if status is not None:
        return f"the hub answered {status}"
    *_, root = causes(error)
    lines = str(root).strip().splitlines()
    told = lines[0] if lines and "://" not in lines[0] else ""
    return f"{type(root).__name__}: {told}" if told else type(root).__name__


def explained(
    error: BaseException, repo: str, revision: str | None, endpoint: str, path: str = "a file"
) -> HSAEError | None:
    """The package's own error for one of huggingface_hub's; None if its meaning is not known."""
    if isinstance(error, HSAEError):
        return error
    commit = revision is not None and re.fullmatch("[0-9a-f]{40}", revision)
    at = f"{repo}@{revision[:12] if commit else revision}" if revision else repo
    status = status_of(error)
    for cause in causes(error):
        if _named(cause, "GatedRepoError"):
            return DeniedError(
                f"{repo} is gated",
                why="its terms have to be accepted once, by a user who is logged in",
                fix=f"accept them on {endpoint}/{repo}\nhf auth login",
            )
        if _named(cause, "RepositoryNotFoundError"):
            return NotFoundError(
                f"no repository {repo} on {endpoint}",
                why="or it is private and the token, if there is one, may not see it",
                fix="hf auth login    if it is private",
            )
        if _named(cause, "RevisionNotFoundError"):
            return NotFoundError(f"no revision {revision!r} in {repo}")
        if _named(cause, "RemoteEntryNotFoundError"):
            return NotFoundError(f"{path} of {at} is missing on {endpoint}")
        if _named(cause, "OfflineModeIsEnabled"):
            return NetworkError(
                f"{at} is not asked for on {endpoint}: offline",
                why="HF_HUB_OFFLINE is set",
                fix="unset HF_HUB_OFFLINE",
            )
        if _named(cause, "SafetensorsParsingError"):
            return CorruptError(f"{path} of {at} has no safetensors header", why=in_short(error))
        if _named(cause, "HFValidationError"):
            return UsageError(str(cause).strip().splitlines()[0])
    sizes = re.search(_SIZES, str(error), re.DOTALL)
    if sizes:
        return CorruptError(
            f"{path} of {at} has {sizes[2]} bytes, expected {sizes[1]}", why="it came so every time"
        )
    return _by_status(status, error, at, endpoint)


def _by_status(
    status: int | None, error: BaseException, at: str, endpoint: str
) -> HSAEError | None:
    if status in (401, 403):
        return DeniedError(
            f"{endpoint} answered {status} for {at}",
            why="no token, or one without the right to do this",
            fix="hf auth login",
        )
    if status in (409, 412):
        return ConflictError(
            f"{at} has changed on {endpoint} since it was read",
            fix="look at it, then do this again",
        )
    if status == 404:
        return NotFoundError(f"{at} was not found on {endpoint}")
    if status == 400 or "Invalid metadata" in str(error):
        told = getattr(error, "server_message", None) or str(error).strip()
        return UsageError(f"{endpoint} refused {at}: {' '.join(str(told).split())}")
    if status is not None or is_transient(error):
        return NetworkError(f"{endpoint} did not answer for {at}", why=in_short(error))
    return None


def _errno_of(error: BaseException, numbers: set[int]) -> bool:
    """Whether the system refused something for one of these reasons; hf_xet says so in words only."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in numbers:
            return True
        told = re.search(r"\(os error (\d+)\)", str(cause)) if _is_of_xet(cause) else None
        if told and int(told[1]) in numbers:
            return True
    return False


def _retry_after(error: BaseException) -> float | None:
    for cause in causes(error):
        headers = getattr(getattr(cause, "response", None), "headers", None)
        value = headers.get("Retry-After") if headers is not None else None
        if value is not None and str(value).isdecimal():
            return float(value)
    return None


def _is_of_xet(error: BaseException) -> bool:
    """Whether hf_xet failed at its work: it has no types of its own."""
    return type(error) is RuntimeError and str(error).startswith(("Task error:", "CAS"))


def _named(error: BaseException, name: str) -> bool:
    return any(cls.__name__ == name for cls in type(error).__mro__)
