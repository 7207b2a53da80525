"""`hsae show`: an SAE, or a collection of them, looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsae_hub.cli.common import SHORT, HubOption, Json, Output, Quiet, Ref, pairs, size_text, table

if TYPE_CHECKING:
    from hsae_hub.hub import Shown, ShownCollection


def show(
    ref: Ref,
    card: Annotated[bool, typer.Option("--card", help="Print its card.")] = False,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look at an SAE without pulling its weights.

    Shows what it is, what it was trained on and what was measured; of a collection which SAEs it holds.

    \b
    Examples:
      hsae show org/name
      hsae show runs/mine --json
    """
    out = Output("show", json=json, quiet=quiet)

    from hsae_hub.errors import NotFoundError
    from hsae_hub.hub import Hub, ShownCollection

    shown = Hub(hub).show(ref)
    if card and shown.card is None:
        raise NotFoundError(f"{ref} has no card", fix=f"hsae card {ref}    for a folder of yours")
    if isinstance(shown, ShownCollection):
        data = {**shown._asdict(), "manifest": shown.manifest.model_dump(mode="json")}
        text = str(shown.card).rstrip() if card else _collection_text(shown)
        out.result(data, text, shown.commit)
        return
    data = {
        **shown._asdict(),
        "config": shown.config.model_dump(mode="json"),
        "tensors": [tensor._asdict() for tensor in shown.tensors],
        "files": [entry._asdict() for entry in shown.files],
    }
    text = str(shown.card).rstrip() if card else _shown_text(shown)
    out.result(data, text, shown.commit or shown.ref)


def _shown_text(shown: Shown) -> str:
    config = shown.config
    n_parents, n_children = config.sae.shape()
    size = (
        f"{n_parents:,} parents × {n_children} children" if n_children else f"{n_parents:,} latents"
    )
    numbers = config.sae.model_dump(mode="json", exclude={"architecture"})
    rows = [
        ("ref", f"{shown.ref} at {shown.commit[:SHORT]}" if shown.commit else shown.ref),
        ("sae", f"{config.sae.architecture}, {size}, {config.dtype}, {size_text(shown.size)}"),
        ("", ", ".join(f"{key} {value}" for key, value in numbers.items())),
    ]
    if config.model is not None:
        at = f"@{config.model.revision[:SHORT]}" if config.model.revision else ""
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


def _collection_text(shown: ShownCollection) -> str:
    saes = shown.manifest.saes
    rows = [
        (
            f"{shown.ref}:{name}",
            f"{sae.architecture}, {sae.d_in} × {sae.d_sae:,}",
            f"{sae.hookpoint or ''} of {sae.model}" if sae.model else "",
            size_text(sum(file.size for file in sae.files.values())),
        )
        for name, sae in saes.items()
    ]
    about = f"{shown.ref} at {shown.commit[:SHORT]}: a collection of {len(saes)} SAEs"
    return f"{about}\n\n{table(('sae', 'kind', 'of', 'size'), rows)}"


def _measured(core: dict[str, Any] | None) -> list[str]:
    saes = core.get("saes") if core is not None else None
    if not isinstance(saes, dict):  # a report is a stranger's file
        return []
    saes = {name: metrics for name, metrics in saes.items() if isinstance(metrics, dict)}
    names = ("explained_variance", "l0", "ce_score", "ce_clean", "ce_spliced", "ce_zero")
    rows = [
        (name, *(_number(metrics.get(name)) for metrics in saes.values()))
        for name in names
        if any(name in metrics for metrics in saes.values())
    ]
    return [table(("measured", *saes), rows)] if rows else []


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else ""
