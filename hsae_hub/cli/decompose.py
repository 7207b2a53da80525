"""`hsae decompose`: a text, a document of any length or saved activations, token by token."""

from __future__ import annotations

import json as jsonlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsae_hub.cli.common import Device, HubOption, Json, NoProgress, Output, Quiet, Ref
from hsae_hub.cli.loading import Model, find, in_unicode
from hsae_hub.errors import CorruptError, UsageError

if TYPE_CHECKING:
    from hsae_hub.architectures import SAE
    from hsae_hub.attach import Decomposition

_RUNNER_UPS = 3
_PIECE = 1 << 16
"""Characters of a file that are made into tokens at once; a piece ends with a line."""
_ROWS = 1024
"""Saved activations that are in memory at once."""
_ACTS = "acts"
"""Name of the tensor in a file of activations, as in the shards of `hsae cache`."""


class Format(StrEnum):
    """How a decomposition is printed."""

    TREE = "tree"
    TABLE = "table"
    JSONL = "jsonl"
    HTML = "html"


def decompose(
    ref: Ref,
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="A text; - reads it from stdin.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Read the text from a file, however long.")
    ] = None,
    acts: Annotated[
        Path | None,
        typer.Option(
            help="Take saved activations apart instead, without a language model: a safetensors file "
            "with a tensor 'acts' of a row a token, such as a shard of hsae cache. Its metadata may name "
            "the tokens: 'tokens', a JSON list of texts."
        ),
    ] = None,
    token: Annotated[
        str, typer.Option(help="Show token number N, the last one, or all.", metavar="N|last|all")
    ] = "all",
    top: Annotated[int, typer.Option(min=1, help="Parents shown of each token.")] = 8,
    runner_ups: Annotated[
        bool, typer.Option("--runner-ups", help="Show the next children beside the kept one.")
    ] = False,
    format: Annotated[Format, typer.Option(help="How it is printed.")] = Format.TREE,
    model: Model = None,
    device: Device = None,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Take a text apart into parents and children.

    Shows for every token its parents, each with its one child, and what they explain. A document is read and printed in
    windows of at most 1024 tokens. Of an SAE of 256 MB or more, on a CPU, only the rows that act are read.

    \b
    Examples:
      hsae decompose org/name 'The corgi slept.' --token last
      hsae decompose runs/mine --file page.txt --format html > page.html
      hsae decompose org/name --acts stores/tiny/shard-00000.safetensors --format jsonl
    """
    out = Output("decompose", json=json, quiet=quiet, no_progress=no_progress)
    if sum(given is not None for given in (text, file, acts)) != 1:
        raise UsageError("give a text, --file or --acts, one of them", fix="hsae decompose -h")
    pieces = None if acts is not None else _pieces(text, file)
    from hsae_hub.models import pick_device

    found = find(ref, hub, out, few_rows=acts is not None or pick_device(device).type == "cpu")
    more = _RUNNER_UPS * runner_ups
    if acts is not None:
        windows = _windows_of_acts(found.sae, acts, top, more)
    else:
        from hsae_hub.attach import attach

        lm = attach(found.sae, model, device=device)
        windows = lm.decompose_windows(pieces or "", top, runner_ups=more)
    from hsae_hub.features import labelled, own_index

    index = own_index(found.folder, found.sae)
    labels = {} if index is None else index.all_labels()
    windows = (labelled(each, labels) for each in windows)
    _print(out, _chosen(windows, token), format, {"ref": ref, "revision": found.revision})


def _pieces(text: str | None, file: Path | None) -> Iterator[str]:
    """A text in pieces that end with a line; a short one comes whole.

    Raises:
        UsageError: the file cannot be read, or is not UTF-8.
    """
    if text is not None and text != "-":
        return iter([in_unicode(text, "the text")])
    if text == "-" and sys.stdin is None:
        raise UsageError("- reads stdin, which is closed")
    try:
        lines = sys.stdin if file is None else file.open(encoding="utf-8", newline="")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    return _grouped(lines, "stdin" if file is None else str(file))


def _grouped(lines: Any, name: str) -> Iterator[str]:
    with nullcontext(lines) if lines is sys.stdin else lines:
        waiting, size = [], 0
        try:
            for line in lines:
                waiting.append(line)
                size += len(line)
                if size >= _PIECE:
                    yield in_unicode("".join(waiting), name)
                    waiting, size = [], 0
        except UnicodeDecodeError as error:
            raise UsageError(f"{name} cannot be read: {error}") from None
        if waiting:
            yield in_unicode("".join(waiting), name)


def _windows_of_acts(
    sae: SAE[Any], file: Path, top: int, runner_ups: int
) -> Iterator[Decomposition]:
    from safetensors import SafetensorError, safe_open

    from hsae_hub.attach import decompose_activations

    try:
        with safe_open(str(file), framework="pt") as opened:
            if _ACTS not in opened.keys():  # it is no mapping
                raise CorruptError(
                    f"{file} has no tensor {_ACTS!r}, but {', '.join(opened.keys())}"
                )
            rows = opened.get_slice(_ACTS)
            shape = rows.get_shape()
            if len(shape) != 2 or rows.get_dtype() not in ("F32", "F16", "BF16", "F64"):
                raise CorruptError(
                    f"{file}: {_ACTS!r} is {rows.get_dtype()} of shape {shape}, expected floats [tokens, d]"
                )
            words = _words((opened.metadata() or {}).get("tokens"), shape[0], file)
            for first in range(0, shape[0], _ROWS):
                part = rows[first : first + _ROWS].float()
                if not bool(part.isfinite().all()):
                    raise CorruptError(f"{file} has numbers that are not finite")
                texts = None if words is None else words[first : first + _ROWS]
                yield decompose_activations(
                    sae, part, texts, top=top, runner_ups=runner_ups, first=first
                )
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None


def _words(given: str | None, n: int, file: Path) -> list[str] | None:
    if given is None:
        return None
    try:
        words = jsonlib.loads(given)
    except ValueError:
        words = None
    if not isinstance(words, list) or len(words) != n or not all(isinstance(w, str) for w in words):
        raise CorruptError(f"{file}: its tokens are not a list of {n} texts")
    return words


def _chosen(windows: Iterator[Decomposition], token: str) -> Iterator[Decomposition]:
    if token == "all":
        yield from windows
        return
    last = None
    for window in windows:
        last = window
        found = [t for t in window.tokens if str(t.position) == token]
        if found:
            yield replace(window, tokens=tuple(found))
            return
    if last is None or not last.tokens:
        raise UsageError("the text has no token")
    if token != "last":
        raise UsageError(
            f"no token {token!r} in this text; its tokens are 0 to {last.tokens[-1].position}",
            fix="--token last, --token all, or a number",
        )
    yield replace(last, tokens=last.tokens[-1:])


def _print(
    out: Output, windows: Iterator[Decomposition], format: Format, ref: dict[str, Any]
) -> None:
    first = next(windows, None)
    if first is None:
        raise UsageError("the text has no token")
    every = chain([first], windows)
    if out.json:
        found = list(every)
        tokens = [token for window in found for token in window.to_dict()["tokens"]]
        text = "".join(window.text for window in found)
        out.result({"ref": ref, **first.to_dict(), "text": text, "tokens": tokens}, "", "")
        return
    if format is Format.HTML and not out.quiet:
        typer.echo('<!doctype html><meta charset="utf-8"><title>hsae</title>')
    for window in every:  # as it comes: a document may be long
        strongest = [t.features[0].id for t in window.tokens if t.features]
        out.result({}, _printed(window, format), "\n".join(strongest))


def _printed(window: Decomposition, format: Format) -> str:
    if format is Format.HTML:
        return window.to_html()
    if format is Format.JSONL:
        return window.to_jsonl()
    if format is Format.TABLE:
        return window.to_table()
    return window.to_text(shutil.get_terminal_size().columns)
