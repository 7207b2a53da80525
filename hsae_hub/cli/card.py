"""`hsae card`: the card of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsae_hub.cli.common import Json, Output, Quiet


def card(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run, or of an SAE.")],
    check: Annotated[
        bool, typer.Option("--check", help="Check the card that is there instead of writing one.")
    ] = False,
    license: Annotated[
        str | None, typer.Option(help="Licence of the weights, such as apache-2.0.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write or check the card of an SAE.

    It is written from the config, the recipe and what was measured. What stands between its notes markers, and its
    licence, is kept when it is written again.

    \b
    Examples:
      hsae card runs/mine
      hsae card runs/mine --check
    """
    out = Output("card", json=json, quiet=quiet)

    from hsae_hub.artifact import write_atomic
    from hsae_hub.card import CARD, check_card, is_rendered, render_card
    from hsae_hub.errors import CheckFailedError, NotFoundError, UsageError

    path = folder / CARD
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    if not check:
        if before is not None and not is_rendered(before):
            raise UsageError(
                f"{path} was not written by hsae card and would be lost", fix=f"move {path} away"
            )
        write_atomic(path, render_card(folder, license=license))
    elif before is None:
        raise NotFoundError(f"no {CARD} in {folder}", fix=f"hsae card {folder}")
    problems = check_card(path.read_text(encoding="utf-8"))
    if problems:
        raise CheckFailedError(f"{path} cannot be published: {'; '.join(problems)}")
    out.result({"path": str(path), "checked": True}, str(path), str(path))
