"""`hsae train`: from a recipe to a run folder."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsae_hub.cli.common import Bars, Device, Json, NoProgress, Output, Quiet
from hsae_hub.cli.recipes import Overrides
from hsae_hub.launch import place

if TYPE_CHECKING:
    from hsae_hub.recipes import LoadedRecipe
    from hsae_hub.training import Event

_LABELS = {
    "sample": "writing text",
    "fill": "reading activations",
    "count": "counting tokens",
    "train": "training",
    "stats": "measuring latents",
}


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", help="A file, or the name of a shipped recipe.", show_default=False
        ),
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; runs/NAME without it.", metavar="DIR")
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            help="auto goes on from the run folder's last checkpoint, never does not; a run folder "
            "stands for its recipe.",
            metavar="auto|never|DIR",
        ),
    ] = "auto",
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text", metavar="FILE", help="Train on these files or globs instead; repeatable."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="DIR",
            help="Read activations from what `hsae cache make` stored, not from the language model.",
        ),
    ] = None,
    device: Device = None,
    log: Annotated[
        list[str] | None,
        typer.Option(
            "--log",
            metavar="tensorboard|wandb",
            help="Send the metrics there too; repeatable. Each is an extra of the package.",
        ),
    ] = None,
    shard: Annotated[
        bool,
        typer.Option(
            "--shard",
            help="With torchrun: each process holds a part of the weights and the optimiser's state.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe, say what it will take, and stop.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Train an SAE from a recipe.

    Ctrl-C finishes the step, saves, and says how to go on.

    \b
    Examples:
      hsae train gemma2-tiny-en/l3_hsae
      hsae train mine.yaml --set train.lr=1e-3 --set sae.k=32 --out runs/k32
      hsae train gemma2-tiny-en/l3_hsae --text 'books/*.txt'
      hsae train mine.yaml --log tensorboard
      hsae train gemma2-tiny-en/l3_hsae --cache stores/tiny
      hsae train --resume runs/k32
      torchrun --nproc-per-node 2 -m hsae_hub train gemma2-tiny-en/l3_hsae --shard
    """
    from hsae_hub.cli.recipes import check

    leads = place().rank == 0
    output = Output("train", json=json, quiet=quiet or not leads, no_progress=no_progress)
    changes = [*(overrides or ()), *(text_source(text) if text else ())]
    changes += [f"data.cache={jsonlib.dumps(str(cache))}"] if cache else []
    if dry_run and recipe is not None:
        return check(recipe, changes, json=json, quiet=quiet)
    loaded, folder = _what_to_run(recipe, changes, out, resume)

    from hsae_hub.training import train as run_training

    with output.bars() as bars:
        result = run_training(
            loaded,
            folder,
            resume="never" if resume == "never" else "auto",
            device=device,
            log=log or (),
            shard=shard,
            on_event=lambda event: show_event(event, bars),
        )
    data = {
        "folder": str(result.folder),
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "wait_seconds": result.wait_seconds,
        "resumed_from": result.resumed_from,
    }
    if leads:
        output.result(data, str(result.folder), str(result.folder))


def _what_to_run(
    recipe: str | None, changes: list[str], out: Path | None, resume: str
) -> tuple[LoadedRecipe, Path]:
    from hsae_hub.errors import NotFoundError, UsageError
    from hsae_hub.recipes import load_recipe

    if resume in ("auto", "never"):
        if recipe is None:
            raise UsageError("give a recipe, or --resume with a run folder", fix="hsae recipes ls")
        loaded = load_recipe(recipe, overrides=changes)
        return loaded, out or Path("runs") / loaded.name.replace("/", "_")
    folder = Path(resume)
    if recipe is not None or changes or out is not None:
        raise UsageError(
            f"--resume {resume} goes on with a run as it was begun, without a recipe, --set, --text, --cache or --out",
            fix=f"hsae train --resume {resume}",
        )
    if not (folder / "resolved.yaml").is_file():
        raise NotFoundError(f"{folder} holds no run", why="there is no resolved.yaml in it")
    return load_recipe(folder / "resolved.yaml")._replace(name=folder.resolve().name), folder


def show_event(event: Event, bars: Bars, prefix: str = "") -> None:
    """Shows what a run tells; `prefix` says which of several runs it is."""
    if event.message:
        bars.say(prefix + event.message)
    bars.update(prefix + _LABELS[event.phase], event.done, event.total, _note(event.metrics))


def _note(metrics: dict[str, Any] | None) -> str | None:
    """`explained variance 0.712 (baseline 0.684), waited 0.1%` from a line of metrics.jsonl."""
    if metrics is None or "explained_variance" not in metrics.get("sae", {}):
        return None
    other = metrics.get("baseline", {}).get("explained_variance")
    beside = f" (baseline {other:.3f})" if other is not None else ""
    waited = metrics["wait_seconds"] / max(metrics["seconds"], 1e-9)
    explained = metrics["sae"]["explained_variance"]
    return f"explained variance {explained:.3f}{beside}, waited {waited:.1%}"


def text_source(patterns: list[str]) -> list[str]:
    """The changes of a recipe that `--text` stands for."""
    return [f"data.train={jsonlib.dumps([{'text': patterns}])}", "data.heldout=null"]
