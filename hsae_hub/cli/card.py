"""`hsae card`: the card of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsae_hub.cli.common import Json, Output, Quiet


def card(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a run, of an SAE, or of several.")
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Check the card that is there instead of writing one.")
    ] = False,
    license: Annotated[
        str | None, typer.Option(help="Licence of the weights, such as apache-2.0.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write or check the card of an SAE, or of a folder of several.

    It is written from the config, the recipe and what was measured. What stands between its notes markers, and its
    licence, is kept when it is written again.

    \b
    Examples:
      hsae card runs/mine
      hsae card runs/mine --check
    """
    out = Output("card", json=json, quiet=quiet)

    from hsae_hub.artifact import write_atomic
    from hsae_hub.card import CARD, Run, check_card, is_rendered, render_card, render_collection
    from hsae_hub.errors import CheckFailedError, NotFoundError, UsageError
    from hsae_hub.hub.collect import collect

    path = folder / CARD
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    if not check:
        if before is not None and not is_rendered(before):
            raise UsageError(
                f"{path} was not written by hsae card and would be lost", fix=f"move {path} away"
            )
        sources = collect(folder)
        if sources.is_collection:
            runs = {name: Run(source.folder) for name, source in sources.saes.items()}
            name, cards = folder.resolve().name, [before or ""]
            text = render_collection(runs, name, license=license, cards=cards)
        else:
            text = render_card(folder, license=license)
        write_atomic(path, text)
    elif before is None:
        raise NotFoundError(f"no {CARD} in {folder}", fix=f"hsae card {folder}")
    problems = check_card(path.read_text(encoding="utf-8"))
    if problems:
        raise CheckFailedError(f"{path} cannot be published: {'; '.join(problems)}")
    out.result({"path": str(path), "checked": True}, str(path), str(path))
