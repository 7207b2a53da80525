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
from typing import TypeVar

from hsae_hub.errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    HSAEError,
    NetworkError,
    NotFoundError,
    UsageError,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")

WAIT_LIMIT = 60.0
"""Seconds that one pull or push waits between tries, in all."""
TRIES = 5
"""Times that one request is made."""
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_PASSING_ERRNO = {
    errno.ECONNRESET,
    errno.ECONNREFUSED,
    errno.ECONNABORTED,
    errno.EPIPE,
    errno.ETIMEDOUT,
}


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
    """Tries again what failed for a passing reason, until the waiting has used up its limit."""

    def __init__(self, seconds: float = WAIT_LIMIT) -> None:
        self.left = seconds

    def call(self, attempt: Callable[[], T]) -> T:
        """Result of `attempt`, which must be safe to repeat; its last exception when it keeps failing."""
        for number in range(1, TRIES + 1):
            try:
                return attempt()
            except Exception as error:
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
