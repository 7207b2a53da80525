"""`hsae recipes`: list, show, copy and check recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsae_hub.cli.common import Json, Output, Quiet, table

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
def ls(
    name: Annotated[
        str, typer.Argument(metavar="[TEXT]", help="Only those with this in their name.")
    ] = "",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the shipped recipes, model by model.

    \b
    Examples:
      hsae recipes ls
      hsae recipes ls gemma-2-2b
      hsae recipes ls l20_hsae
    """
    from hsae_hub.errors import NotFoundError
    from hsae_hub.recipes import find_recipe, list_recipes

    out = Output("recipes_ls", json=json, quiet=quiet)
    found = [known for known in list_recipes() if name in known]
    if not found:
        raise NotFoundError(f"no shipped recipe has {name!r} in its name", fix="hsae recipes ls")
    summaries = {known: find_recipe(known).summary() for known in found}
    data = [{"name": known, "summary": summary} for known, summary in summaries.items()]
    text = f"{_by_model(summaries)}\n\nnext: hsae recipes check {found[0]}"
    out.result({"recipes": data}, text, "\n".join(found))


def _by_model(summaries: dict[str, str]) -> str:
    """`model/` over the rest of the names and what they are, a line each."""
    models: dict[str, list[tuple[str, str]]] = {}
    for name, summary in summaries.items():
        model, _, rest = name.partition("/")
        models.setdefault(f"{model}/", []).append((f"  {rest}", summary))
    return "\n\n".join(table((model, ""), rows) for model, rows in models.items())


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
    from hsae_hub.cli.needs import needs, needs_text
    from hsae_hub.recipes import load_recipe

    out = Output("recipes_check", json=json, quiet=quiet)
    loaded = load_recipe(recipe, overrides=overrides or ())
    data = needs(loaded.recipe)
    out.result({"name": loaded.name, **data}, needs_text(loaded.name, loaded.recipe, data), "ok")
