"""What every command shares: its options, and where its result, its talk and its progress go."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsae_hub.render import harmless
from hsae_hub.render import table as table

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, also on failure.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the one useful value.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Show no progress.")]
HubOption = Annotated[
    str | None,
    typer.Option(
        "--hub",
        envvar="HSAE_HUB",
        help="A hub's URL, or a folder that serves as one.",
        metavar="LOCATION",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="Such as cpu, cuda or cuda:1; the best one there is without it.")
]
Ref = Annotated[
    str,
    typer.Argument(
        help="An SAE: a folder, or org/name[@revision][:subfolder] on the hub.", show_default=False
    ),
]

SHORT = 12
"""Characters of a commit that are shown."""

LOG_INTERVAL = 30.0
"""Seconds between lines of progress when stderr is not a terminal."""


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in rows)


def size_text(size: int | float) -> str:
    """A number of bytes for people: `11.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _counts(done: int, total: int, in_bytes: bool) -> str:
    if in_bytes:
        return f"{size_text(done)} of {size_text(total)}"
    return f"{done:,}/{total:,}"


def json_text(data: dict[str, Any]) -> str:
    """One JSON object in one line: null for what is not a number, and a lone surrogate spelled out."""
    text = json.dumps(_finite(data), ensure_ascii=False, default=str)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _finite(value: Any) -> Any:
    """The same data with null for what is not a number: JSON has no nan."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Output:
    """Result to stdout, talk and progress to stderr."""

    def __init__(
        self, command: str, *, json: bool = False, quiet: bool = False, no_progress: bool = False
    ) -> None:
        self.command = command
        self.json = json
        self.quiet = quiet
        self.progress = not (quiet or no_progress)

    def result(self, data: dict[str, Any], text: str, value: str) -> None:
        """Prints the result: `data` with `--json`, `value` with `--quiet`, else `text`."""
        if self.json:
            self.line({"schema": f"hsae.{self.command}/1", **data})
        else:
            said = value if self.quiet else text
            if said:
                typer.echo(harmless(said))

    def line(self, data: dict[str, Any]) -> None:
        """Prints one JSON object in one line."""
        typer.echo(json_text(data))

    def talk(self, text: str) -> None:
        """Says something that is not the result."""
        if not self.quiet and not self.json:
            typer.echo(harmless(text), err=True)

    @contextmanager
    def bars(self) -> Iterator[Bars]:
        """Progress bars on a terminal, a line every 30 s elsewhere, nothing with `--no-progress`."""
        if not self.progress:
            yield Bars(self)
        elif not sys.stderr.isatty():
            yield LogBars(self)
        else:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[counts]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=Console(stderr=True), transient=True) as live:
                yield RichBars(self, live)


class Bars:
    """Progress of several things by their labels; this one shows nothing."""

    def __init__(self, output: Output) -> None:
        self.output = output

    def update(
        self, label: str, done: int, total: int, note: str | None = None, *, in_bytes: bool = False
    ) -> None:
        """`done` of `total`, and a few words such as the loss; None keeps the last ones."""

    def of_bytes(self, label: str) -> Callable[[int, int], None]:
        """What is told how many bytes of one thing are done, and of how many."""
        return partial(self.update, label, in_bytes=True)

    def say(self, text: str) -> None:
        """Says something that is not the result."""
        self.output.talk(text)


class LogBars(Bars):
    """Progress as lines of a log."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self.notes: dict[str, str] = {}
        self.last = time.monotonic()

    def update(
        self, label: str, done: int, total: int, note: str | None = None, *, in_bytes: bool = False
    ) -> None:
        """As for all bars; writes a line when the last one is 30 s old."""
        if note is not None:
            self.notes[label] = note
        if time.monotonic() - self.last >= LOG_INTERVAL:
            self.last = time.monotonic()
            line = f"{label}: {_counts(done, total, in_bytes)} {self.notes.get(label, '')}"
            typer.echo(line.rstrip(), err=True)


class RichBars(Bars):
    """Progress as bars on a terminal; a bar that is full disappears."""

    def __init__(self, output: Output, live: Progress) -> None:
        super().__init__(output)
        self.live = live
        self.notes: dict[str, str] = {}
        self.tasks: dict[str, TaskID] = {}

    def update(
        self, label: str, done: int, total: int, note: str | None = None, *, in_bytes: bool = False
    ) -> None:
        """As for all bars."""
        if label not in self.tasks:
            self.tasks[label] = self.live.add_task(label, total=total, note="", counts="")
        if note is not None:
            self.notes[label] = note
        self.live.update(
            self.tasks[label],
            completed=done,
            total=total,
            visible=done < total,
            counts=_counts(done, total, in_bytes),
            note=self.notes.get(label, ""),
        )

    def say(self, text: str) -> None:
        """Writes above the bars."""
        if not self.output.json:
            self.live.console.print(harmless(text), markup=False, highlight=False)
