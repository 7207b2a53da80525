"""`hsae steer --interactive`: lines in, steered text out as it is written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hsae_hub.cli import failing
from hsae_hub.cli.common import Output
from hsae_hub.errors import HSAEError, UsageError
from hsae_hub.render import harmless

if TYPE_CHECKING:
    from hsae_hub.attach import Attached, Edit

_COMMANDS = "/edit FEATURE=STRENGTH [MODE] [GATE …], /clear, /save FILE, /quit"


class _Quit(Exception):
    """Ends the session."""


def talk(
    lm: Attached,
    edits: list[Edit],
    words: str,
    out: Output,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> None:
    """Continues every line that comes on stdin with the edits of the moment, until /quit or the end of input.

    Ctrl-C ends the text that is being written; what cannot be meant is told, and the session goes on.
    """

    def write(line: str) -> None:
        pieces = []
        stream = lm.stream(line, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        try:
            for piece in stream:
                pieces.append(piece)
                if not out.json:
                    typer.echo(harmless(piece), nl=False)
        except KeyboardInterrupt:
            stream.close()
        text = "".join(pieces)
        if out.json:
            named = [str(edit) for edit in edits]
            out.line({"schema": "hsae.steer/1", "prompt": line, "edits": named, "steered": text})
        else:
            typer.echo("")

    out.talk(f"a line is continued; {_COMMANDS}")
    waiting = [words] if words else []
    while True:
        line = waiting.pop() if waiting else _ask(out)
        if line is None:
            return
        try:
            if line.startswith("/"):
                out.talk(_obey(line, edits))
            elif line.strip() and edits:
                with lm.steer(edits):
                    write(line)
            elif line.strip():
                write(line)
        except _Quit:
            return
        except (HSAEError, OSError) as error:
            told = failing.understood(error)
            if told is None:
                raise
            typer.echo(
                failing.as_json(told) if out.json else failing.as_text(told), err=not out.json
            )


def _ask(out: Output) -> str | None:
    if sys.stdin.isatty() and not out.json:
        typer.echo("> ", nl=False, err=True)
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def _obey(line: str, edits: list[Edit]) -> str:
    """Does what a command says; returns what there is to say of it."""
    from hsae_hub.attach import SteeringSpec, parse_edits, write_steering

    name, *words = line.split()
    if name == "/quit":
        raise _Quit
    if name == "/clear":
        edits.clear()
    elif name == "/edit" and words:
        new = parse_edits(
            words[0], mode=words[1] if len(words) > 1 else "full", gate=words[2:] or "always"
        )
        edits += new.edits
    elif name == "/save" and len(words) == 1:
        if not edits:
            raise UsageError("there is no edit to save", fix="/edit 4121/3=+1.5")
        write_steering(SteeringSpec(edits=tuple(edits)), Path(words[0]))
        return f"saved to {words[0]}"
    else:
        raise UsageError(f"no command {line!r}", fix=_COMMANDS)
    return "edits: " + (", ".join(str(edit) for edit in edits) or "none")
