"""`hsae splice`: what a language model loses with SAEs in its place."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsae_hub.cli.common import Device, HubOption, Json, NoProgress, Output, Quiet, Ref, table
from hsae_hub.cli.loading import Found, Model, TextFiles, find, measuring, read_text
from hsae_hub.errors import UsageError

if TYPE_CHECKING:
    from hsae_hub.attach import SpliceReport
    from hsae_hub.recipes import DataConfig

_LOSSES = {
    "ce_clean": "the model as it is",
    "ce_spliced": "with the reconstruction in place",
    "ce_zero": "with zeros in place",
    "ce_mean": "with the mean in place",
    "ce_score": "1: nothing lost, 0: no better than zeros",
    "kl": "from the model as it is, nats",
}


def splice(
    ref: Ref,
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="A text; - reads it from stdin.", show_default=False),
    ] = None,
    files: TextFiles = None,
    tokens: Annotated[
        int, typer.Option(min=2, help="About so many tokens of the text at most.")
    ] = 10_000,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REF", help="Another SAE of the same model, in its own place at the same time."
        ),
    ] = None,
    latent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FEATURE",
            help="Only this latent takes part, a parent with its children; repeatable.",
        ),
    ] = None,
    error_term: Annotated[
        bool, typer.Option("--error-term", help="Add what the SAE does not reconstruct.")
    ] = False,
    model: Model = None,
    device: Device = None,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Read what the model loses with the SAE in its place.

    The reconstruction takes the place of the activations. Without a text it is measured on what the run held out, or
    on documentation that Python carries. The 95 % intervals are of a bootstrap over sequences.

    \b
    Examples:
      hsae splice org/name
      hsae splice runs/mine --text 'books/*.txt' --tokens 100000
      hsae splice org/layer5 --also org/layer20
      cat page.txt | hsae splice org/name -
    """
    out = Output("splice", json=json, quiet=quiet, no_progress=no_progress)
    if text is not None and files is not None:
        raise UsageError("give a text or --text with files, not both", fix="hsae splice -h")
    if latent and also:
        raise UsageError("--latent is for one SAE, and --also gives another", fix="hsae splice -h")
    found = {each: find(each, hub, out) for each in [ref, *(also or [])]}

    from hsae_hub.activations import heldout_windows
    from hsae_hub.attach import attach

    lm = attach({name: each.sae for name, each in found.items()}, model, device=device)
    data, seed = _measured_on(found[ref], text, files)
    windows = heldout_windows(data, lm.lm, tokens=tokens, sample_seed=seed)
    with lm.splice(error_term=error_term, latents=latent) as spliced, out.bars() as bars:
        report = spliced.loss(windows, on_progress=partial(bars.update, "measuring"))
    given = "the given text" if text is not None else None
    source = given or "; ".join(each.describe() for each in data.heldout or data.train)
    refs = [{"ref": name, "revision": each.revision} for name, each in found.items()]
    result = {"ref": refs[0], "also": refs[1:], "text": source, **report.to_dict()}
    out.result(result, _losses(report, source), f"{report.ce_score:.4f}")


def _measured_on(found: Found, text: str | None, files: list[str] | None) -> tuple[DataConfig, int]:
    """Text to measure on, and the seed of what the model writes itself."""
    from hsae_hub.evaluation.core import as_data

    if text is None:
        data, _, seed = measuring(found, files)
        return data, seed
    words = read_text(text)
    if not words.strip():
        raise UsageError("the text is empty")
    return as_data([words], found.sae), 0


def _losses(report: SpliceReport, source: str) -> str:
    numbers: dict[str, Any] = report.to_dict()
    rows = [
        (name, f"{numbers[name]:.4f}", _interval(report, name), told)
        for name, told in _LOSSES.items()
    ]
    one = len(report.saes) == 1
    for name, each in report.saes.items():
        of = "" if one else name
        rows.append(("explained_variance", f"{each.explained_variance:.4f}", "", of))
        rows.append(("l0", f"{each.l0:.4f}", "", "acts a token" if one else f"{of}, acts a token"))
    what = f"{report.predictions:,} predictions in {report.sequences:,} sequences of {source}"
    return f"{what}\n\n{table(('', 'value', '95 %', ''), rows)}"


def _interval(report: SpliceReport, name: str) -> str:
    bounds = report.intervals.get(name)
    return "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"
