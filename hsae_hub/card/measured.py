"""The numbers of a card: what was measured, on what, and what each of them means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hsae_hub.card.reports import Report, Value
from hsae_hub.card.run import Run

MEANINGS = {
    "explained_variance": "1 - sum of squared errors / variance about the mean; 1 is perfect",
    "explained_variance_parents": "the same with parents alone",
    "explained_variance_children": "what children add to it",
    "explained_variance_saebench": "as SAEBench has it, which squares before it averages; it can pass 1",
    "explained_variance_whitened": "the same where the rows seen are white: by the causal inner product",
    "seen_tokens": "rows it was trained on",
    "seen_explained_variance": "explained variance of the rows it was trained on",
    "seen_explained_variance_whitened": "the same where they are white",
    "mse": "squared error of a token, summed over the width",
    "cosine": "mean cosine between activation and reconstruction",
    "l0": "non-zero latents a token",
    "l0_parents": "non-zero parents a token",
    "l0_children": "non-zero children a token",
    "l0_sparsity": "share of latents that are zero, in percent",
    "strong_children": "share of acting parents whose child acts at least a tenth as strongly",
    "dead_latents": "latents that were zero on every one of these tokens",
    "dead_parents": "parents among them",
    "active_latents": "latents with a mean act above 0.0001",
    "ce_clean": "cross-entropy of the language model in nats, untouched",
    "ce_spliced": "the same with the reconstruction in the activation's place",
    "ce_zero": "the same with zeros in its place",
    "ce_mean": "the same with the mean activation in its place",
    "ce_score": "(ce_zero - ce_spliced) / (ce_zero - ce_clean); 1 loses nothing",
    "kl": "mean KL of the next-token distribution, clean from spliced, in nats",
    "kl_zero": "the same for zeros in its place",
    "kl_score": "(kl_zero - kl) / kl_zero; 1 loses nothing",
}
_OF_ROWS = {
    "mse": "squared error of a row, summed over the width",
    "cosine": "mean cosine between row and reconstruction",
    "dead_latents": "latents that were zero on every row, those it was trained on included",
}
_IN_INDEX = ("explained_variance", "l0", "ce_score", "kl", "dead_latents")


class Row(NamedTuple):
    name: str
    sae: str
    baseline: str
    meaning: str


class Table(NamedTuple):
    """One report of a card."""

    title: str
    on: str
    command: str
    rows: list[Row]
    has_baseline: bool


def core(run: Run) -> Table | None:
    """The core metrics in the order of their meanings; None if there are none."""
    if run.core is None:
        return None
    measured = run.core.of()
    meanings = {**MEANINGS, **(_OF_ROWS if run.is_of_rows else {})}
    names = [name for name in MEANINGS if name in measured]
    names += [name for name in measured if name not in MEANINGS]
    return _table(run, run.core, names, meanings)


def others(run: Run) -> Iterator[Table]:
    """Every other report of the run, in the order of their names."""
    for name, report in run.reports.items():
        if name != "core":
            yield _table(run, report, list(report.of()), {})


def _table(run: Run, report: Report, names: list[str], meanings: dict[str, str]) -> Table:
    sae, flat = report.of(), report.of("baseline")
    rows = [
        Row(
            name,
            shown(sae[name]),
            shown(flat[name]) if name in flat else "-",
            meanings.get(name, sae[name].unit),
        )
        for name in names
    ]
    title = report.name.replace("_", " ").replace("-", " ").capitalize()
    return Table(title, _measured_on(run, report), report.command, rows, bool(flat))


def _measured_on(run: Run, report: Report) -> str:
    """On what it was measured."""
    at = f" at {report.model['revision']}" if report.model.get("revision") else ""
    what = (
        "held-out rows"
        if run.is_of_rows
        else "held-out tokens"
        if report.name == "core"
        else "tokens"
    )
    text = f"{count(report.tokens)} {what} of {report.model.get('id', 'the model')}{at}"
    if report.contexts:
        text += f" in {report.contexts:,} contexts"
    return f"{text}, seed {report.seed}"


def index_result(run: Run, config: str | None = None) -> dict[str, Any]:
    """The core metrics as a result of the Hub's model-index; `config` names the SAE in a collection."""
    measured = run.metrics()
    metrics = [
        {"type": key, "name": key.replace("_", " "), "value": round(measured[key], 6)}
        for key in _IN_INDEX
        if key in measured
    ]
    read, kind, unit = ("rows",) * 3 if run.is_of_rows else ("activations", "text", "tokens")
    tokens = run.core.tokens if run.core else None
    dataset = {"type": f"held-out-{kind}", "name": f"{count(tokens)} held-out {unit}"}
    return {
        "task": {"type": "feature-extraction", "name": f"Reconstruction of {read}"},
        "dataset": {**dataset, **({"config": config} if config else {})},
        "metrics": metrics,
    }


def shown(value: Value) -> str:
    """A number for people, with its interval."""
    text = number(value.value)
    if value.low is None or value.high is None:
        return text
    return f"{text} ({number(value.low)} to {number(value.high)})"


def number(value: float) -> str:
    """A number for people."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def count(value: int | None) -> str:
    """A whole number for people."""
    return "an unrecorded number of" if value is None else f"{value:,}"
