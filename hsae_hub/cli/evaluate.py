"""`hsae eval`: the core metrics of an SAE, and of its flat baseline beside it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsae_hub.cli.common import Device, HubOption, Json, NoProgress, Output, Quiet, Ref, table
from hsae_hub.cli.loading import Model, TextFiles, beside, find, measuring

if TYPE_CHECKING:
    from hsae_hub.evaluation import CoreReport


def evaluate(
    ref: Ref,
    files: TextFiles = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=2, help="About so many held-out tokens; the recipe's number without it."),
    ] = None,
    model: Model = None,
    device: Device = None,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Measure an SAE on text it has not seen.

    Its flat baseline, and the other SAEs of its run, are measured on the same text. A run folder keeps the report in
    eval/core.json, where its card finds it. Without --text it is measured on what the run held out, or on documentation
    that Python carries. An SAE of an embedding's rows is measured on all rows that are held out.

    \b
    Examples:
      hsae eval runs/mine
      hsae eval org/name --text 'books/*.txt' --tokens 100000
    """
    out = Output("eval", json=json, quiet=quiet, no_progress=no_progress)
    found = find(ref, hub, out, whole=True)

    from hsae_hub.evaluation import evaluate as measure

    on = measuring(found, files)
    with out.bars() as bars:
        report = measure(
            found.sae,
            on.data,
            beside=beside(found),
            model=model,
            tokens=tokens or on.tokens,
            seed=on.seed,
            device=device,
            command=_command(ref, files, tokens, model),
            on_progress=bars.update,
        )
    if found.revision is None:
        report.save(found.folder)
    data = report.model_dump(by_alias=True)
    ev = report.saes["sae"]["explained_variance"]
    out.result({"ref": ref, "report": data}, _text(report), f"{ev:.4f}")


def _command(ref: str, files: list[str] | None, tokens: int | None, model: str | None) -> str:
    """The command for the card, which strangers read: of local paths only the names."""
    words = ["hsae", "eval", Path(ref).name if Path(ref).exists() else ref]
    words += [word for file in files or () for word in ("--text", Path(file).name)]
    words += ["--tokens", str(tokens)] if tokens else []
    words += ["--model", Path(model).name if Path(model).exists() else model] if model else []
    return shlex.join(words)


def _text(report: CoreReport) -> str:
    saes = list(report.saes.items())
    names = list(dict.fromkeys(name for _, metrics in saes for name in metrics))
    rows = [(name, *(_number(metrics.get(name)) for _, metrics in saes)) for name in names]
    head = ("", *(name for name, _ in saes))
    what = "; ".join(report.data)
    if report.contexts:
        what = f"{report.tokens:,} tokens in {report.contexts:,} contexts of {what}"
    return f"{what}\n\n{table(head, rows)}"


def _number(value: int | float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value == int(value) else f"{value:.4f}"
