"""How a command fails: one line, why, what to try, and an exit code; or the same as one JSON object."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback

import typer

from hsae_hub.cli.common import json_text
from hsae_hub.errors import (
    CorruptError,
    DivergedError,
    HSAEError,
    InterruptedRun,
    NotFoundError,
    ResourceError,
    StoppedElsewhere,
    UsageError,
)
from hsae_hub.launch import place
from hsae_hub.render import visible

_HOMELESS = "Could not determine home directory."
"""What pathlib says of a `~` that it cannot expand."""
_NAME = 200
"""Characters of a file's name that are told."""


def understood(error: BaseException) -> HSAEError | None:
    """The error as one of ours, if its meaning is known; None for what nobody expected."""
    if isinstance(error, HSAEError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return InterruptedRun("interrupted", signal=2)
    if isinstance(error, typer.TyperException):
        return _usage(error)
    if isinstance(error, OSError):
        return _system(error)
    if isinstance(error, RuntimeError) and str(error) == _HOMELESS:
        return UsageError("~ is the home of no user here", fix="set HOME, or write the whole path")
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (
        torch is not None and isinstance(error, torch.OutOfMemoryError)
    ):
        return ResourceError(
            "out of memory",
            why=str(error).splitlines()[0] if str(error) else "",
            fix="smaller batches, or another --device",
        )
    return None


def unexpected(error: BaseException) -> HSAEError:
    """An error nobody expected, with its traceback saved to a file that the message names."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="hsae-traceback-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    told = str(error).strip().splitlines()
    return HSAEError(
        f"unexpected {type(error).__name__}: {told[0] if told else 'no message'}",
        why=f"the traceback is in {file.name}",
        fix="the same command with --debug, or report it with that file",
    )


def is_told_elsewhere(error: HSAEError) -> bool:
    """Whether another of the processes that torchrun started prints this error, or what it came from.

    What stops all of them is told by the first one; what is wrong with a command or a file, by the first one of each
    machine. The rest may have happened here alone.
    """
    here = place()
    if isinstance(error, StoppedElsewhere | DivergedError | InterruptedRun):
        return here.rank > 0
    return here.local_rank > 0 and isinstance(error, UsageError | NotFoundError | CorruptError)


def as_text(error: HSAEError) -> str:
    """What a person reads on stderr."""
    return "\n".join(
        [f"error: {visible(error.message)}", *(visible(line) for line in error.remarks())]
    )


def as_json(error: HSAEError) -> str:
    """What `--json` prints on stdout."""
    return json_text({"schema": "hsae.error/1", "error": error.as_dict()})


def debugging(args: list[str]) -> bool:
    """Whether tracebacks are wanted."""
    return "--debug" in args or os.environ.get("HSAE_DEBUG", "") not in ("", "0")


def _system(error: OSError) -> HSAEError | None:
    """What the system refused to do with a file that somebody named."""
    name, why = str(error.filename or "the output"), (error.strerror or "").lower()
    name = name if len(name) <= _NAME else f"{name[:_NAME]}…"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"no space left on the disk of {name}", fix="free some space, or write elsewhere"
        )
    if error.filename is None or not why:
        return None
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{name}: {why}")
    return UsageError(f"{name}: {why}")


def _usage(error: typer.TyperException) -> UsageError:
    message = error.format_message().strip().rstrip(".")
    context = getattr(error, "ctx", None)  # typer's usage errors have one, its base class does not
    path = context.command_path if context is not None else "hsae"
    return UsageError(f"{message[:1].lower()}{message[1:]}", fix=f"{path} -h")
