"""Runs a suite: as few training runs as its rows allow, each resumed where it stopped."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from hsae_hub.artifact import CORE_REPORT, weights_sha256
from hsae_hub.errors import InterruptedRun, UsageError
from hsae_hub.evaluation import CoreReport, evaluate
from hsae_hub.recipes import LoadedRecipe, Recipe, dump_recipe, load_recipe
from hsae_hub.suites.schema import LoadedSuite, Row, Suite
from hsae_hub.suites.summary import Results, summarise
from hsae_hub.training import Event, TrainResult, train

OnEvent = Callable[["Planned", int, Event], None]
"""Told of the run that is on, its number counted from 0, and what happens in it."""
OnProgress = Callable[[str, int, int], None]


class Planned(NamedTuple):
    """One training run of a suite."""

    folder: str
    """Of the run, in the suite's."""
    seed: int
    recipe: Recipe
    rows: dict[str, str]
    """Which SAE of the run each row is."""


def plan_suite(suite: Suite, *, overrides: Sequence[str] = ()) -> list[Planned]:
    """The runs of a suite: rows whose recipes differ in the SAE alone share one, and so its activations.

    Raises:
        UsageError: a recipe, or a row's change of it, cannot be meant.
        NotFoundError: there is no such recipe.
    """
    recipes = {name: _recipe(row, overrides) for name, row in suite.rows.items()}
    shared: dict[str, list[str]] = {}
    for name, recipe in recipes.items():
        rest = recipe.model_dump(mode="json", exclude={"sae", "baseline", "also", "seed"})
        shared.setdefault(json.dumps(rest, sort_keys=True), []).append(name)
    return [
        _planned([(name, recipes[name]) for name in names], suite, seed)
        for seed in suite.seeds
        for names in shared.values()
    ]


def run_suite(
    loaded: LoadedSuite,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    device: str | None = None,
    on_event: OnEvent | None = None,
    on_progress: OnProgress | None = None,
) -> Results:
    """Trains and measures every row over the seeds, in a folder a run; what is finished there is not done again.

    Raises:
        UsageError: a recipe cannot be meant, or the folder holds runs of other ones.
        InterruptedRun: a signal came; its `fix` is the command that goes on.
        HSAEError: whatever training or measuring raises.
    """
    runs = plan_suite(loaded.suite, overrides=overrides)
    measured: dict[str, list[dict[str, int | float]]] = {name: [] for name in loaded.suite.rows}
    for number, planned in enumerate(runs):
        recipe = LoadedRecipe(
            planned.recipe, f"{loaded.name}/{planned.folder}", dump_recipe(planned.recipe), ()
        )
        folder = out / planned.folder
        try:
            result = train(
                recipe,
                folder,
                device=device,
                on_event=lambda event, n=number, p=planned: (
                    on_event(p, n, event) if on_event else None
                ),  # type: ignore[misc]
            )
        except InterruptedRun as error:
            again = _command(loaded, overrides, out)
            raise InterruptedRun(
                error.message, signal=error.code - 128, why=error.why, fix=again
            ) from None
        report = _measured(result, planned.recipe, folder, device, on_progress)
        for row, sae in planned.rows.items():
            measured[row].append(report.saes[sae])
    return summarise(loaded, measured, command=_command(loaded, overrides))


def with_seeds(loaded: LoadedSuite, seeds: Sequence[int]) -> LoadedSuite:
    """The same suite over other seeds."""
    suite = loaded.suite.model_copy(update={"seeds": list(dict.fromkeys(seeds))})
    return loaded._replace(suite=suite, other_seeds=True)


def _recipe(row: Row, overrides: Sequence[str]) -> Recipe:
    changes = [f"{key}={json.dumps(value)}" for key, value in row.set.items()]
    recipe = load_recipe(row.recipe, overrides=[*changes, *overrides]).recipe
    if row.sae not in recipe.saes():
        raise UsageError(
            f"recipe {row.recipe} has no SAE {row.sae!r}; it has {', '.join(recipe.saes())}"
        )
    return recipe


def _planned(rows: list[tuple[str, Recipe]], suite: Suite, seed: int) -> Planned:
    (first, recipe), *others = rows
    configs = {name: other.saes()[suite.rows[name].sae] for name, other in rows}
    run = recipe.model_copy(
        update={
            "sae": configs[first],
            "baseline": None,
            "also": {name: configs[name] for name, _ in others},
            "seed": seed,
        }
    )
    members = {first: "sae", **{name: name for name, _ in others}}
    return Planned(f"{first}-seed{seed}", seed, Recipe.model_validate(dict(run)), members)


def _measured(
    result: TrainResult,
    recipe: Recipe,
    folder: Path,
    device: str | None,
    on_progress: OnProgress | None,
) -> CoreReport:
    saes = {"sae": result.sae, **result.beside}
    weights = {name: weights_sha256(sae) for name, sae in saes.items()}
    path = folder / CORE_REPORT
    if path.is_file():
        before = CoreReport.model_validate_json(path.read_text(encoding="utf-8"))
        if before.weights == weights:
            return before
    report = evaluate(
        result.sae,
        recipe.data,
        beside=result.beside,
        tokens=recipe.eval.tokens,
        seed=recipe.seed_for("sample"),
        device=device,
        command=shlex.join(["hsae", "eval", folder.name]),
        on_progress=on_progress,
    )
    report.save(folder)
    return report


def _command(loaded: LoadedSuite, overrides: Sequence[str], out: Path | None = None) -> str:
    words = ["hsae", "suite", "run", loaded.name]
    if loaded.other_seeds:
        words += [word for seed in loaded.suite.seeds for word in ("--seed", str(seed))]
    words += [word for override in overrides for word in ("--set", override)]
    words += ["--out", str(out)] if out else []
    return shlex.join(words)
