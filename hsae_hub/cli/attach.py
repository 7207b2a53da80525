"""`hsae decompose`, `hsae steer`: an SAE attached to its language model."""

from __future__ import annotations

import json as jsonlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from enum import StrEnum
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsae_hub.cli.common import Device, HubOption, Json, NoProgress, Output, Quiet, Ref, table
from hsae_hub.cli.loading import Model, find, read_text
from hsae_hub.errors import UsageError

if TYPE_CHECKING:
    from hsae_hub.attach import Attached, Decomposition, Feature

STRONGEST = "strongest"
"""Name of the parent that acts most on the last token of the prompt, one that acts everywhere counting little."""
_RUNNER_UPS = 3


class Format(StrEnum):
    """How a decomposition is printed."""

    TREE = "tree"
    TABLE = "table"
    JSONL = "jsonl"
    HTML = "html"


class Mode(StrEnum):
    """Whether a child is pushed together with its parent, or alone."""

    FULL = "full"
    RELATIVE = "relative"


def decompose(
    ref: Ref,
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="A text; - reads it from stdin.", show_default=False),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Read the text from a file.")] = None,
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

    Shows for every token its parents, each with its one child, and what they explain.

    \b
    Examples:
      hsae decompose org/name 'The corgi slept.' --token last
      hsae decompose runs/mine --file page.txt --format html > page.html
    """
    out = Output("decompose", json=json, quiet=quiet, no_progress=no_progress)
    if (text is None) == (file is None):
        raise UsageError("give a text or --file, one of them", fix="hsae decompose -h")
    words = read_text(text or "") if file is None else _read(file)
    found = find(ref, hub, out)

    from hsae_hub.attach import attach

    lm = attach(found.sae, model, device=device)
    result = _choose(lm.decompose(words, top, runner_ups=_RUNNER_UPS * runner_ups), token)
    strongest = [t.features[0].id for t in result.tokens if t.features]
    data = {"ref": {"ref": ref, "revision": found.revision}, **result.to_dict()}
    out.result(data, _printed(result, format), "\n".join(strongest))


def steer(
    ref: Ref,
    prompt: Annotated[str, typer.Argument(help="A text to continue; - reads it from stdin.")],
    edit: Annotated[
        list[str],
        typer.Option(
            metavar="FEATURE=STRENGTH",
            help="Push a feature by multiples of its own strong act, such as 4121/3=+1.5; =0 takes it out. "
            f"'{STRONGEST}' is the parent that tells most of the prompt's last token: act times -log(density). "
            "Repeatable.",
        ),
    ],
    mode: Annotated[Mode, typer.Option(help="Push a child with its parent, or alone.")] = Mode.FULL,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write.")] = 50,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of both texts, above temperature 0.")] = 0,
    model: Model = None,
    device: Device = None,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Continue a prompt with features pushed, beside it without.

    \b
    Examples:
      hsae steer org/name 'My favourite dog is' --edit '4121/3=+1.5'
      hsae steer org/name 'My favourite dog is' --edit 4121=0 --edit '588=-2' --temperature 0.8
    """
    out = Output("steer", json=json, quiet=quiet, no_progress=no_progress)
    words = read_text(prompt)
    found = find(ref, hub, out)

    from hsae_hub.attach import attach, parse_edits

    lm = attach(found.sae, model, device=device)
    edits = parse_edits([_named(lm, words, each) for each in edit], mode=mode.value)

    def write() -> str:
        return lm.generate(words, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)

    with lm.steer(edits):
        steered = write()
    unsteered = write()
    told = ", ".join(f"{each.feature}={each.strength:+g}" for each in edits)
    data = {
        "ref": {"ref": ref, "revision": found.revision},
        "prompt": words,
        "edits": [each.model_dump() for each in edits],
        "unsteered": unsteered,
        "steered": steered,
    }
    text = f"as it is:\n{words}{unsteered}\n\nwith {told} ({mode.value}):\n{words}{steered}"
    out.result(data, text, steered)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None


def _choose(result: Decomposition, token: str) -> Decomposition:
    if token == "all":
        return result
    last = result.tokens[-1].position
    wanted = str(last) if token == "last" else token
    chosen = tuple(t for t in result.tokens if str(t.position) == wanted)
    if not chosen:
        raise UsageError(
            f"no token {token!r} in this text; its tokens are 0 to {last}",
            fix="--token last, --token all, or a number",
        )
    return replace(result, tokens=chosen)


def _printed(result: Decomposition, format: Format) -> str:
    if format is Format.HTML:
        return f'<!doctype html><meta charset="utf-8"><title>hsae</title>{result.to_html()}'
    if format is Format.JSONL:
        rows = (jsonlib.dumps(asdict(token), ensure_ascii=False) for token in result.tokens)
        return "\n".join(rows)
    if format is Format.TABLE:
        head = ("position", "token", "feature", "act", "share", "loss without")
        return table(head, list(_table_rows(result)))
    return result.to_text(shutil.get_terminal_size().columns)


def _table_rows(result: Decomposition) -> Iterator[tuple[str, ...]]:
    for token in result.tokens:
        for parent in token.features:
            for feature in (parent, parent.child) if parent.child else (parent,):
                yield (
                    str(token.position),
                    repr(token.text),
                    feature.id,
                    f"{feature.act:.3f}",
                    f"{feature.share:.4f}",
                    f"{feature.leave_one_out:.4f}",
                )


def _named(lm: Attached, prompt: str, edit: str) -> str:
    name, equals, strength = edit.partition("=")
    if name.strip() != STRONGEST:
        return edit
    features = lm.decompose(prompt).tokens[-1].features
    if not features:
        raise UsageError(f"no feature acts on the last token of {prompt!r}")
    stats = lm.sae.info.stats
    if stats is None:
        return f"{features[0].id}{equals}{strength}"

    def surprise(feature: Feature) -> float:
        density = float(stats.density[lm.sae.shape.index_of(feature.id)])
        return -feature.act * log(max(density, 1 / max(stats.tokens, 1)))

    return f"{max(features, key=surprise).id}{equals}{strength}"
