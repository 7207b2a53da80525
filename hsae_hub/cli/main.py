"""The entry point: the commands, and what happens when one of them fails."""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from contextlib import suppress
from typing import Annotated, TextIO

import typer

import hsae_hub
from hsae_hub.cli import failing
from hsae_hub.cli.contents import Contents
from hsae_hub.render import harmless

_GRACE = 5.0
"""Seconds in which another process says why all of them end: torchrun stops it when this one has ended."""

app = typer.Typer(
    name="hsae",
    cls=Contents,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    typer.echo(harmless(f"warning: {message}"), err=True)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"hsae-hub {hsae_hub.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Hierarchical sparse autoencoders: train, publish, pull, attach, steer, splice, decompose."""


def run(args: list[str]) -> int:
    """Runs one command line; returns its exit code."""
    debug = failing.debugging(args)
    words = [word for word in args if word != "--debug"] or ["--help"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = app(words, prog_name="hsae", standalone_mode=False)
        if code == 130:  # typer's answer to Ctrl-C
            raise KeyboardInterrupt
        return int(code or 0)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        told = failing.understood(error) or failing.unexpected(error)
        if failing.is_told_elsewhere(told):
            time.sleep(_GRACE)
            return told.code
        with suppress(OSError):  # stdout may be what failed
            if "--json" in words:
                typer.echo(failing.as_json(told))
        typer.echo(failing.as_text(told), err=True)
        return told.code


def main() -> None:
    """What the command `hsae` calls."""
    # OpenMP's threads spin at barriers unless told to sleep: steps 11 times slower beside another busy process
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(sys.argv[1:]))
