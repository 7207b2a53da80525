"""`hsae search`: SAEs on a hub, by name, language model and layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsae_hub.cli.common import SHORT, HubOption, Json, Output, Quiet, table

if TYPE_CHECKING:
    from hsae_hub.hub import ListedSAE


def search(
    query: Annotated[
        str, typer.Argument(help="Words of its name, its model or its tags; all SAEs without.")
    ] = "",
    model: Annotated[
        str | None,
        typer.Option(help="The language model, such as google/gemma-2-2b or gemma-2-2b."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="The decoder layer that it reads.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest first.")] = 20,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find SAEs on the hub.

    \b
    Examples:
      hsae search
      hsae search matryoshka --model gemma-2-2b --layer 12
      hsae search --hub ./shared-folder --json
    """
    out = Output("search", json=json, quiet=quiet)

    from hsae_hub.hub import Hub

    found = Hub(hub).search(query, model=model, layer=layer, limit=limit)
    head, rows, data = hub_rows(found)
    if not rows:
        out.talk(
            "none fits; fewer words find more"
            if query or model or layer is not None
            else "nothing there"
        )
    elif len(rows) == limit:
        out.talk(f"the newest {limit}; --limit for more")
    text = table(head, rows) if rows else ""
    out.result({"saes": data}, text, "\n".join(row[0] for row in rows))


def hub_rows(
    listed: list[ListedSAE],
) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[dict[str, Any]]]:
    """Repositories of a hub as the head and rows of a table, and as plain data."""
    rows: list[tuple[str, ...]] = [
        (
            sae.info.repo,
            ", ".join(sae.info.models),
            ", ".join(map(str, sae.info.layers)),
            str(sae.info.commit)[:SHORT],
            sae.info.updated,
            "its owners" if sae.info.private else "all",
            "yes" if sae.cached else "",
        )
        for sae in listed
    ]
    data = [
        {
            **sae.info._asdict(),
            "models": sae.info.models,
            "layers": sae.info.layers,
            "cached": sae.cached,
        }
        for sae in listed
    ]
    return ("repo", "model", "layers", "commit", "updated", "seen by", "here"), rows, data
