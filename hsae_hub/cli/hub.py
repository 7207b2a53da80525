"""`hsae pull`, `ls`, `show`: SAEs on a hub, and those of it on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsae_hub.cli.common import (
    HubOption,
    Json,
    NoProgress,
    Output,
    Quiet,
    Ref,
    pairs,
    size_text,
    table,
)
from hsae_hub.cli.search import hub_rows

if TYPE_CHECKING:
    from hsae_hub.hub import CachedSAE, Pulled, Shown

_SHORT = 12
"""Characters of a commit that are shown."""
_LISTED = 200
"""Repositories of a hub that are listed."""

_Rows = tuple[tuple[str, ...], Sequence[tuple[str, ...]], list[dict[str, Any]]]


def pull(
    ref: Ref,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Copy it to this folder too.")
    ] = None,
    features: Annotated[
        bool, typer.Option("--features", help="With the tables of its index, where it has one.")
    ] = False,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Bring an SAE to this machine, every byte checked.

    \b
    Examples:
      hsae pull org/name
      hsae pull org/name@v1:layer_20 --out ./here
    """
    output = Output("pull", json=json, quiet=quiet, no_progress=no_progress)

    from hsae_hub.hub import Hub

    with output.bars() as bars:
        pulled = Hub(hub).pull(
            ref,
            features=features,
            on_progress=lambda done, total: bars.update("pulling", done, total, in_bytes=True),
        )
    folder = pulled.folder if out is None else _copied(ref, pulled, out)
    data = {**pulled._asdict(), "folder": str(folder)}
    state = "was here already" if pulled.up_to_date else f"{size_text(pulled.size)}, checked"
    output.talk(f"{pulled.repo} at {pulled.commit[:_SHORT]}: {state}")
    output.result(data, str(folder), str(folder))


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


def show(
    ref: Ref,
    card: Annotated[bool, typer.Option("--card", help="Print its card.")] = False,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look at an SAE without pulling its weights.

    Shows what it is, what it was trained on and what was measured.

    \b
    Examples:
      hsae show org/name
      hsae show runs/mine --json
    """
    out = Output("show", json=json, quiet=quiet)

    from hsae_hub.errors import NotFoundError
    from hsae_hub.hub import Hub

    shown = Hub(hub).show(ref)
    if card and shown.card is None:
        raise NotFoundError(f"{ref} has no card", fix=f"hsae card {ref}    for a folder of yours")
    data = {
        **shown._asdict(),
        "config": shown.config.model_dump(mode="json"),
        "tensors": [tensor._asdict() for tensor in shown.tensors],
        "files": [entry._asdict() for entry in shown.files],
    }
    text = str(shown.card).rstrip() if card else _shown_text(shown)
    out.result(data, text, shown.commit or shown.ref)


def _cached_rows(cached: list[CachedSAE]) -> _Rows:
    rows = [
        (
            sae.ref,
            sae.config.model.id if sae.config.model else "",
            sae.config.hookpoint.path if sae.config.hookpoint else "",
            sae.config.sae.architecture,
            f"{sae.config.sae.shape().d_sae:,}",
            size_text(sae.size),
        )
        for sae in cached
    ]
    data = [{**sae._asdict(), "config": sae.config.model_dump(mode="json")} for sae in cached]
    return ("sae", "model", "hookpoint", "architecture", "latents", "size"), rows, data


def _copied(ref: str, pulled: Pulled, to: Path) -> Path:
    import shutil

    from hsae_hub.errors import UsageError
    from hsae_hub.hub import Ref as ParsedRef

    subfolder = ParsedRef.parse(ref).subfolder

    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UsageError(f"{to} is not empty", fix="give another --out")
    for path in pulled.files:  # the folder may be a shared cache, with files of other tools
        name = path.removeprefix(f"{subfolder}/") if subfolder else path
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pulled.folder / name, to / name)
    return to


def _shown_text(shown: Shown) -> str:
    config = shown.config
    n_parents, n_children = config.sae.shape()
    size = (
        f"{n_parents:,} parents × {n_children} children" if n_children else f"{n_parents:,} latents"
    )
    numbers = config.sae.model_dump(mode="json", exclude={"architecture"})
    rows = [
        ("ref", f"{shown.ref} at {shown.commit[:_SHORT]}" if shown.commit else shown.ref),
        ("sae", f"{config.sae.architecture}, {size}, {config.dtype}, {size_text(shown.size)}"),
        ("", ", ".join(f"{key} {value}" for key, value in numbers.items())),
    ]
    if config.model is not None:
        at = f"@{config.model.revision[:_SHORT]}" if config.model.revision else ""
        rows.append(("model", f"{config.model.id}{at}, {config.model.dtype}"))
    if config.hookpoint is not None:
        alias = config.hookpoint.transformer_lens
        also = f", in TransformerLens {alias}" if alias else ""
        rows.append(("hookpoint", f"{config.hookpoint.side} of {config.hookpoint.path}{also}"))
    if config.training is not None:
        done = config.training
        run = f"{done.tokens:,} tokens in {done.steps:,} steps, seed {done.seed}, {done.written_by}"
        rows += [("training", run), ("", "; ".join(done.data))]
    rows.append(("here", str(shown.folder) if shown.folder else f"no; hsae pull {shown.ref}"))
    weights = [(t.name, t.dtype, " × ".join(map(str, t.shape))) for t in shown.tensors]
    parts = [pairs(rows), table(("tensor", "dtype", "shape"), weights)]
    return "\n\n".join([*parts, *_measured(shown.core)])


def _measured(core: dict[str, Any] | None) -> list[str]:
    saes = core.get("saes") if core is not None else None
    if not isinstance(saes, dict):  # a report is a stranger's file
        return []
    names = ("explained_variance", "l0", "ce_score", "ce_clean", "ce_spliced", "ce_zero")
    rows = [
        (name, *(_number(metrics.get(name)) for metrics in saes.values()))
        for name in names
        if any(isinstance(metrics, dict) and name in metrics for metrics in saes.values())
    ]
    return [table(("measured", *saes), rows)] if rows else []


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else ""
