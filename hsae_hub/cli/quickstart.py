"""`hsae quickstart`: the whole of it on the embedded model, by the same commands that a user types."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from hsae_hub.cli.common import Json, Output

REPO = "you/hsae-tiny"
RECIPE = "gemma2-tiny-en/l3_hsae"
TEXT = "The king and his army"

_Step = tuple[str, list[str]]


def steps(out: Path, text: list[str] | None) -> list[_Step]:
    """What is done, in order: a heading and the command line after `hsae`."""
    run, hub = str(out / "run"), str(out / "hub")
    texts = [word for pattern in text or [] for word in ("--text", pattern)]
    return [
        (
            "Train a hierarchical SAE, and a flat one on the same batches",
            ["train", RECIPE, "--out", run, *texts],
        ),
        ("Measure both on held-out text", ["eval", run]),
        ("Write its card", ["card", run]),
        ("Publish it to a hub; this one is a folder", ["push", run, REPO, "--hub", hub]),
        ("Pull it into an empty cache; every byte is checked", ["pull", REPO, "--hub", hub]),
        ("Look at what came back", ["show", REPO, "--hub", hub]),
        (
            "A text as a tree: the parents of its last token, each with its one child",
            ["decompose", REPO, TEXT, "--hub", hub, "--token", "last"],
        ),
        (
            "A feature steered, beside the same text without it",
            [
                "steer",
                REPO,
                TEXT,
                "--hub",
                hub,
                "--edit",
                "strongest=+0.5",
                "--max-new-tokens",
                "20",
            ],
        ),
        (
            "The loss with the reconstruction in the residual stream's place",
            ["splice", REPO, "--hub", hub],
        ),
    ]


def next_commands(out: Path) -> list[str]:
    """What to type next."""
    hub = shlex.quote(str(out / "hub"))
    return [
        f"hsae decompose {REPO} 'Your own sentence.' --hub {hub} --runner-ups",
        f"hsae train {RECIPE} --text 'your/*.txt' --set train.steps=5k --out runs/mine",
        "hsae train gemma-2-2b/l20_hsae-16kx16 --device cuda --out runs/2b   # google/gemma-2-2b, on a GPU",
    ]


def quickstart(
    out: Annotated[
        Path, typer.Option("--out", help="Where everything goes.", metavar="DIR")
    ] = Path("hsae-quickstart"),
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="FILE", help="Train on these files or globs; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Do all of it on the embedded Gemma-2: about 3 minutes.

    It trains, measures, publishes, pulls, decomposes, steers and splices, by the commands that it shows; 3 minutes are
    those of 2 idle cores. Without --text it trains on text that every Python carries (the documentation in
    pydoc_data.topics) and on text that the embedded model writes itself. A finished run is not trained again. --json
    prints one object a step.
    """
    from hsae_hub.cli.main import app

    output = Output("quickstart", json=json)
    os.environ["HSAE_HOME"] = str(out / "home")
    for number, (title, words) in enumerate(steps(out, text), 1):
        output.talk(f"\n── {number}. {title}\n$ {shlex.join(['hsae', *words])}")
        asked = [*words, *(["--json"] if json else [])]
        if app(asked, prog_name="hsae", standalone_mode=False) == 130:  # typer's answer to Ctrl-C
            raise KeyboardInterrupt
    output.talk("\n── Next")
    if not json:
        typer.echo("\n".join(next_commands(out)))
