"""`hsae recipes`: list, show, copy and check recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsae_hub.cli.common import Json, Output, Quiet, pairs, size_text, table

if TYPE_CHECKING:
    from hsae_hub.architectures import SAEConfig
    from hsae_hub.recipes import Recipe

app = typer.Typer(help="List, show, copy and check recipes.")

RecipeRef = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A file, or the name of a shipped recipe.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a key, such as train.lr=1e-3; repeatable."
    ),
]


@app.command()
def ls(json: Json = False, quiet: Quiet = False) -> None:
    """List the shipped recipes."""
    from hsae_hub.recipes import find_recipe, list_recipes

    out = Output("recipes_ls", json=json, quiet=quiet)
    rows = [(name, find_recipe(name).summary()) for name in list_recipes()]
    data = [{"name": name, "summary": summary} for name, summary in rows]
    names = "\n".join(name for name, _ in rows)
    out.result({"recipes": data}, table(("recipe", "what it is"), rows), names)


@app.command()
def show(
    recipe: RecipeRef,
    overrides: Overrides = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="With every default written out.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print a recipe as written; with --resolved or --set, as it would be run."""
    from hsae_hub.recipes import find_recipe

    out = Output("recipes_show", json=json, quiet=quiet)
    if not (resolved or overrides or json):
        text = find_recipe(recipe).text().rstrip()
        return out.result({}, text, text)
    from hsae_hub.recipes import dump_recipe, load_recipe

    loaded = load_recipe(recipe, overrides=overrides or ())
    text = dump_recipe(loaded.recipe).rstrip()
    out.result({"name": loaded.name, "recipe": loaded.recipe.model_dump(mode="json")}, text, text)


@app.command()
def cp(
    recipe: RecipeRef,
    to: Annotated[Path, typer.Argument(help="File or folder to copy it to.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Copy a shipped recipe, to make it yours."""
    from hsae_hub.errors import UsageError
    from hsae_hub.recipes import find_recipe

    out = Output("recipes_cp", json=json, quiet=quiet)
    file = find_recipe(recipe)
    target = to / f"{Path(file.name).name}.yaml" if to.is_dir() else to
    if target.exists() and not force:
        raise UsageError(f"{target} is there already", fix="another name, or --force to replace it")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(file.text(), encoding="utf-8")
    out.result({"path": str(target)}, f"{target}\n\nnext: hsae train {target}", str(target))


@app.command()
def check(
    recipe: RecipeRef,
    overrides: Overrides = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a recipe and say what it will take, before anything is run.

    \b
    Examples:
      hsae recipes check gemma2-tiny-en/l3_hsae
      hsae recipes check mine.yaml --set sae.k=64 --set train.tokens=10M
    """
    from hsae_hub.recipes import load_recipe

    out = Output("recipes_check", json=json, quiet=quiet)
    loaded = load_recipe(recipe, overrides=overrides or ())
    data = needs(loaded.recipe)
    out.result({"name": loaded.name, **data}, _check_text(loaded.name, loaded.recipe, data), "ok")


def needs(recipe: Recipe) -> dict[str, Any]:
    """What a run will take: parameters, bytes, FLOPs, tokens; nothing is downloaded.

    Raises:
        UsageError: the hookpoint cannot be meant.
        MisfitError: the embedded model has no such place, or another width there.
    """
    _check_hookpoint(recipe)
    train = recipe.train
    per_sae = {name: _sae_needs(config, recipe) for name, config in recipe.saes().items()}
    width = 2 if recipe.model.dtype != "float32" else 4
    buffer = recipe.data.buffer_tokens * recipe.sae.d_in * width
    checkpoint = sum(sae["weights_bytes"] * 3 for sae in per_sae.values()) + buffer
    return {
        "steps": train.n_steps,
        "tokens": train.n_tokens,
        "tokens_a_step": train.batch_size,
        "saes": per_sae,
        "buffer_bytes": buffer,
        "checkpoint_bytes": checkpoint,
        "memory_bytes": buffer + sum(sae["memory_bytes"] for sae in per_sae.values()),
        "flops_a_step": sum(sae["flops_a_step"] for sae in per_sae.values()),
    }


def _check_hookpoint(recipe: Recipe) -> None:
    from hsae_hub.assets import EMBEDDED_MODEL
    from hsae_hub.errors import MisfitError
    from hsae_hub.models import Hookpoint, load_language_model

    hookpoint = Hookpoint.parse(recipe.hookpoint)
    if recipe.model.id != EMBEDDED_MODEL:
        return  # a check loads no large model and asks no network
    width = hookpoint.width(load_language_model(EMBEDDED_MODEL, device="cpu"))
    if width != recipe.sae.d_in:
        raise MisfitError(
            f"sae.d_in is {recipe.sae.d_in}, but {recipe.hookpoint} of {EMBEDDED_MODEL} has width {width}",
            fix=f"--set sae.d_in={width}"
            + (f" --set baseline.d_in={width}" if recipe.baseline else ""),
        )


def _sae_needs(config: SAEConfig, recipe: Recipe) -> dict[str, Any]:
    import torch

    from hsae_hub.architectures import architecture

    with torch.device("meta"):
        sae = architecture(config.architecture)(config)
    batch = recipe.train.batch_size
    width = 2 if recipe.train.dtype == "bfloat16" else 4
    weights = width * sum(parameter.numel() for parameter in sae.parameters())
    pre_acts = width * batch * sae.shape.n_parents
    return {
        "architecture": config.architecture,
        "d_sae": sae.d_sae,
        "parameters": weights // width,
        "weights_bytes": weights,
        "memory_bytes": 4 * weights
        + 3 * pre_acts,  # gradient, two moments; pre-acts, acts, gradient
        "flops_a_step": batch * sae.encoder_flops(),
    }


def _check_text(name: str, recipe: Recipe, data: dict[str, Any]) -> str:
    head = ("", "latents", "parameters", "weights", "in training", "FLOPs a step")
    rows = [
        (
            f"{key} ({sae['architecture']})",
            f"{sae['d_sae']:,}",
            f"{sae['parameters']:,}",
            size_text(sae["weights_bytes"]),
            size_text(sae["memory_bytes"]),
            f"{sae['flops_a_step']:.1e}",
        )
        for key, sae in data["saes"].items()
    ]
    rest = pairs(
        [
            ("model", f"{recipe.model.id}, {recipe.model.dtype}, {recipe.hookpoint}"),
            ("text", "; ".join(source.describe() for source in recipe.data.train)),
            (
                "run",
                f"{data['steps']:,} steps of {data['tokens_a_step']:,} tokens: {data['tokens']:,}",
            ),
            ("memory", f"{size_text(data['memory_bytes'])} with the buffer, beside the model"),
            ("disk", f"{size_text(data['checkpoint_bytes'])} a checkpoint"),
        ]
    )
    note = "FLOPs: encoder, forward and backward; penalties and the language model come on top."
    return f"{name} can be run\n\n{table(head, rows)}\n\n{rest}\n\n{note}"
