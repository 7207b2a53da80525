"""`hsae suite`: rerun a paper's comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsae_hub.cli.common import Device, Json, NoProgress, Output, Quiet, pairs, size_text, table
from hsae_hub.cli.recipes import Overrides
from hsae_hub.cli.train import show_event

if TYPE_CHECKING:
    from hsae_hub.suites import LoadedSuite, Planned

app = typer.Typer(help="Rerun a paper's comparison over seeds, with intervals.")

SuiteRef = Annotated[
    str, typer.Argument(metavar="SUITE", help="A file, or the name of a shipped suite.")
]


@app.command()
def ls(json: Json = False, quiet: Quiet = False) -> None:
    """List the shipped suites."""
    from hsae_hub.recipes import find_suite, list_suites

    out = Output("suite_ls", json=json, quiet=quiet)
    found = [(name, find_suite(name).summary()) for name in list_suites()]
    names = "\n".join(name for name, _ in found)
    out.result({"suites": [{"name": n, "summary": s} for n, s in found]}, pairs(found), names)


@app.command()
def run(
    suite: SuiteRef,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder of its runs; runs/suites/NAME without it.", metavar="DIR"
        ),
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option(
            "--seed", min=0, help="Only this seed; repeatable. The suite's own without it."
        ),
    ] = None,
    device: Device = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained, and stop.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Train every row of a suite over its seeds; print its table, and whether the paper's claims hold.

    Rows whose recipes differ in the SAE alone share the language model's pass. What is finished is not done again: the
    same command goes on after Ctrl-C. The folder gets results.json, results.md and a plot; every run in it is an
    ordinary one.

    \b
    Examples:
      hsae suite run gemma2-tiny-en/feature-groups
      hsae suite run gemma2-tiny-en/feature-groups --seed 0
      hsae suite run mine.yaml --set train.steps=300 --out runs/short
    """
    from hsae_hub.artifact import write_atomic
    from hsae_hub.errors import UsageError
    from hsae_hub.launch import place
    from hsae_hub.suites import load_suite, markdown, plan_suite, run_suite, with_seeds
    from hsae_hub.suites.plotting import plot

    output = Output("suite_run", json=json, quiet=quiet, no_progress=no_progress)
    if place().world > 1:
        raise UsageError(
            f"a suite runs in one process, not in {place().world}",
            why="its runs are measured one after another in the same folder",
            fix="hsae suite run without torchrun, or torchrun with hsae train for a single recipe",
        )
    loaded = load_suite(suite)
    if seeds:
        loaded = with_seeds(loaded, seeds)
    runs = plan_suite(loaded.suite, overrides=overrides or ())
    if dry_run:
        return _tell_plan(loaded, runs, output)
    folder = out or Path("runs") / "suites" / loaded.name.replace("/", "_")
    with output.bars() as bars:
        results = run_suite(
            loaded,
            folder,
            overrides=overrides or (),
            device=device,
            on_event=lambda planned, number, event: show_event(
                event, bars, f"{number + 1}/{len(runs)} {planned.folder}: "
            ),
            on_progress=bars.update,
        )
    text = markdown(results)
    write_atomic(folder / "results.json", results.model_dump_json(indent=1, by_alias=True) + "\n")
    write_atomic(folder / "results.md", text + "\n")
    if loaded.suite.plot:
        for ending in ("png", "svg"):
            beside = folder / f".results.{ending}"
            plot(results, beside)
            beside.rename(folder / f"results.{ending}")
        output.talk(f"plot: {folder / 'results.png'}")
    output.result(results.model_dump(by_alias=True, mode="json"), text, str(folder))


def _tell_plan(loaded: LoadedSuite, runs: list[Planned], output: Output) -> None:
    from hsae_hub.cli.needs import needs

    first = loaded.suite.seeds[0]  # every seed needs as much
    memory = {
        tuple(run.rows): needs(run.recipe)["memory_bytes"] for run in runs if run.seed == first
    }
    rows = [
        (
            run.folder,
            f"{run.recipe.train.n_steps:,}",
            run.recipe.hookpoint,
            size_text(memory[tuple(run.rows)]),
            "; ".join(loaded.suite.label(name) for name in run.rows),
        )
        for run in runs
    ]
    data = [
        {
            "folder": run.folder,
            "steps": run.recipe.train.n_steps,
            "memory_bytes": memory[tuple(run.rows)],
            "rows": list(run.rows),
        }
        for run in runs
    ]
    text = table(("run", "steps", "hookpoint", "memory", "trains together"), rows)
    output.result({"name": loaded.name, "runs": data}, text, str(len(runs)))
