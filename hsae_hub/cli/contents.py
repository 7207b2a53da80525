"""What `hsae -h` lists: the commands under what one wants to do, in the order in which one meets them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

CHAPTERS = {
    "Start here": ["quickstart", "demo", "doctor"],
    "Train and measure": ["recipes", "train", "eval", "cache", "suite"],
    "Publish and pull": ["card", "push", "search", "pull", "ls", "show", "verify", "rm"],
    "Attach to the language model": ["decompose", "steer", "splice", "attribute"],
    "What features act on": ["index", "find", "feature", "compare", "labels"],
    "Other toolkits": ["import", "export"],
}


class Contents(TyperGroup):
    def list_commands(self, ctx: Context) -> list[str]:
        return [name for names in CHAPTERS.values() for name in names]

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        widest = max(map(len, self.commands))
        room = formatter.width - widest - 4  # an indent of two and two between the columns
        for chapter, names in CHAPTERS.items():
            with formatter.section(chapter):
                formatter.write_dl(
                    [
                        (name.ljust(widest), self.commands[name].get_short_help_str(room))
                        for name in names
                    ]
                )
