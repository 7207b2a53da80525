"""`hsae ls`: SAEs on a hub, and those of it on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsae_hub.cli.common import (
    SHORT,
    HubOption,
    Json,
    Output,
    Quiet,
    size_text,
    table,
)
from hsae_hub.cli.search import hub_rows

if TYPE_CHECKING:
    from hsae_hub.hub import CachedSAE

_LISTED = 200
"""Repositories of a hub that are listed."""

_Rows = tuple[tuple[str, ...], Sequence[tuple[str, ...]], list[dict[str, Any]]]


def ls(
    remote: Annotated[
        bool, typer.Option("--remote", help="What the hub has, instead of what is on this machine.")
    ] = False,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the SAEs that were pulled, or those on the hub.

    \b
    Examples:
      hsae ls
      hsae ls --remote --hub ./shared-folder
    """
    out = Output("ls", json=json, quiet=quiet)

    from hsae_hub.hub import Hub

    place = Hub(hub)
    head, rows, data = hub_rows(place.search(limit=_LISTED)) if remote else _cached_rows(place.ls())
    if not rows:
        out.talk("nothing there" if remote else "nothing was pulled yet")
    text = table(head, rows) if rows else ""
    out.result({"saes": data}, text, "\n".join(row[0] for row in rows))


def _cached_rows(cached: list[CachedSAE]) -> _Rows:
    rows = [
        (
            sae.ref,
            sae.config.model.id if sae.config.model else "",
            sae.config.hookpoint.path if sae.config.hookpoint else "",
            sae.config.sae.architecture,
            f"{sae.config.sae.shape().d_sae:,}",
            sae.commit[:SHORT],
            size_text(sae.size),
        )
        for sae in cached
    ]
    data = [{**sae._asdict(), "config": sae.config.model_dump(mode="json")} for sae in cached]
    return ("sae", "model", "hookpoint", "architecture", "latents", "commit", "size"), rows, data
