"""What can go wrong for a user, as one tree; every leaf has its exit code.

HSAEError                1   unexpected
├── UsageError           2   a call, flag or recipe that cannot be meant (every problem at once)
├── NotFoundError        3   no such repo, revision, file or feature
├── DeniedError          4   gated, private, no token
├── MisfitError          5   the SAE and the model do not belong together
├── CorruptError         6   wrong bytes, truncated, not a number, unknown format version
├── ResourceError        7   no such device or optional package, out of memory or disk
├── NetworkError         8   unreachable, or offline and not in the cache
├── CheckFailedError     9   a verification that ran and failed
├── ConflictError       10   somebody else changed it first, or is using it
├── DivergedError       11   training met a number that is not finite
├── StoppedElsewhere     1   another process of the same run failed; its own code, where it could tell it
└── InterruptedRun     130   Ctrl-C (SIGTERM: 143); what was saved is in the message
"""

from __future__ import annotations

from typing import Any, ClassVar


def _labelled(label: str, text: str) -> list[str]:
    first, *rest = text.splitlines() or [""]
    return [f"  {label}: {first}", *(f"       {line}" for line in rest)] if text else []


class HSAEError(Exception):
    """Base of everything this package raises on purpose.

    `str(error)` is one line: what was given and what was expected. `why` is the cause in a few words, `fix` the
    next command or commands, one a line. Both may be empty. A traceback ends with them.
    """

    code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"

    def __init__(self, message: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.fix = fix
        for line in self.remarks():
            self.add_note(line)

    def remarks(self) -> list[str]:
        """What a person reads below the message."""
        return _labelled("why", self.why) + _labelled("try", self.fix)

    def as_dict(self) -> dict[str, Any]:
        """The error as the object that `--json` prints."""
        return {
            "kind": self.kind,
            "code": self.code,
            "message": self.message,
            "why": self.why,
            "fix": self.fix,
        }


class UsageError(HSAEError):
    """Raised when a call, a flag or a recipe cannot be meant; `problems` lists every one that was found."""

    code = 2
    kind = "usage"

    def __init__(
        self, message: str, *, why: str = "", fix: str = "", problems: tuple[str, ...] = ()
    ) -> None:
        self.problems = problems
        super().__init__(message, why=why, fix=fix)

    def remarks(self) -> list[str]:
        """As for every error, after the problems."""
        told = [f"  {problem}" for problem in self.problems if problem != self.message]
        return told + super().remarks()

    def as_dict(self) -> dict[str, Any]:
        """As for every error, with the list of problems."""
        return {**super().as_dict(), "problems": list(self.problems)}


class NotFoundError(HSAEError):
    """Raised when a repo, revision, file, model, recipe or feature does not exist or cannot be seen."""

    code = 3
    kind = "not_found"


class DeniedError(HSAEError):
    """Raised when something is gated, private, or needs a token that was not given."""

    code = 4
    kind = "denied"


class MisfitError(HSAEError):
    """Raised when an SAE does not fit the language model: width, layer, family or tokenizer."""

    code = 5
    kind = "misfit"


class CorruptError(HSAEError):
    """Raised when bytes are not what they should be: hash, size, shape, a value that is not finite, a newer format."""

    code = 6
    kind = "corrupt"


class ResourceError(HSAEError):
    """Raised when a device or optional package is missing or memory or disk would not suffice, before work begins."""

    code = 7
    kind = "resource"


class NetworkError(HSAEError):
    """Raised when the hub cannot be reached, or when offline and the cache lacks something."""

    code = 8
    kind = "network"


class CheckFailedError(HSAEError):
    """Raised when a check ran to its end and what it measured is outside its limit; `report` is all that it found."""

    code = 9
    kind = "check_failed"

    def __init__(
        self, message: str, *, why: str = "", fix: str = "", report: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message, why=why, fix=fix)
        self.report = report

    def as_dict(self) -> dict[str, Any]:
        """As for every error, with the report if there is one."""
        return {**super().as_dict(), **({"report": self.report} if self.report else {})}


class ConflictError(HSAEError):
    """Raised when a repo moved, or a tag exists, between reading it and writing to it, or a folder is in use."""

    code = 10
    kind = "conflict"


class DivergedError(HSAEError):
    """Raised when a loss, gradient or activation stops being finite during training."""

    code = 11
    kind = "diverged"


class StoppedElsewhere(HSAEError):
    """Raised in a process of a run because another one failed, with what that one told."""

    kind = "elsewhere"

    def __init__(self, message: str, *, code: int = 1, why: str = "", fix: str = "") -> None:
        super().__init__(message, why=why, fix=fix)
        self.code = code  # type: ignore[misc]  # that of the error which stopped the run


class InterruptedRun(HSAEError):
    """Raised after a run was stopped by a signal and has saved its state."""

    kind = "interrupted"

    def __init__(self, message: str, *, signal: int, why: str = "", fix: str = "") -> None:
        super().__init__(message, why=why, fix=fix)
        self.code = 128 + signal  # type: ignore[misc]  # the shell's convention: 130 SIGINT, 143 SIGTERM
