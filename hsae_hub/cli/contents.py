"""What `hsae -h` lists: the commands under what one wants to do, in the order in which one meets them.

Only the command that is asked for is loaded, all of them to list them or to find what a mistyped one may mean.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter

CHAPTERS = {
    "Start here": {
        "quickstart": "quickstart.quickstart",
        "demo": "demo.demo",
        "doctor": "doctor.doctor",
    },
    "Train and measure": {
        "recipes": "recipes.app",
        "train": "train.train",
        "eval": "evaluate.evaluate",
        "cache": "cache.app",
        "suite": "suites.app",
    },
    "Publish and pull": {
        "card": "card.card",
        "push": "push.push",
        "search": "search.search",
        "pull": "pull.pull",
        "ls": "hub.ls",
        "show": "show.show",
        "verify": "pull.verify",
        "rm": "pull.rm",
    },
    "Attach to the language model": {
        "decompose": "decompose.decompose",
        "steer": "steer.steer",
        "splice": "splice.splice",
        "attribute": "attribute.attribute",
    },
    "What features act on": {
        "index": "features.index",
        "find": "features.find_features",
        "feature": "features.feature",
        "compare": "compare.compare",
        "labels": "labels.app",
    },
    "Other toolkits": {
        "import": "interop.import_sae",
        "export": "export.export",
    },
}
"""Of every command the file beside this one, and in it its function or, for a group of commands, their app."""
PLACES = {name: place for names in CHAPTERS.values() for name, place in names.items()}


def load(name: str) -> Command:
    """A command, from its file."""
    file, _, part = PLACES[name].partition(".")
    found = getattr(import_module(f"hsae_hub.cli.{file}"), part)
    around = typer.Typer(add_completion=False, rich_markup_mode=None)
    if isinstance(found, typer.Typer):
        around.add_typer(found, name=name)
        return typer.main.get_group(around).commands[name]
    around.command(name)(found)
    return typer.main.get_command(around)


class Contents(TyperGroup):
    def list_commands(self, ctx: Context) -> list[str]:
        return list(PLACES)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        for name in [cmd_name] if cmd_name in PLACES else PLACES:
            self.commands[name] = self.commands.get(name) or load(name)
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        widest = max(map(len, PLACES))
        room = formatter.width - widest - 4  # an indent of two and two between the columns
        for chapter, names in CHAPTERS.items():
            with formatter.section(chapter):
                formatter.write_dl(
                    [(name.ljust(widest), load(name).get_short_help_str(room)) for name in names]
                )
