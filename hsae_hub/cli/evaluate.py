"""`hsae eval`: what an SAE is worth, and its flat baseline beside it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsae_hub.cli.common import Device, HubOption, Json, NoProgress, Output, Quiet, Ref, table
from hsae_hub.cli.loading import Found, Model, TextFiles, beside, find, measuring
from hsae_hub.errors import UsageError

if TYPE_CHECKING:
    from hsae_hub.architectures import SAE
    from hsae_hub.cli.loading import Measuring
    from hsae_hub.evaluation import Bench, CoreReport, Report, Result
    from hsae_hub.evaluation.labelled import Labelled

TASKS = ("core", "absorption", "probing", "scr", "cross-lingual", "tree")


def evaluate(
    ref: Ref,
    on: Annotated[
        str, typer.Option("--on", metavar="TASKS", help=f"Some of {', '.join(TASKS)}.")
    ] = "core",
    files: TextFiles = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=2, help="About so many held-out tokens; the recipe's number without it."),
    ] = None,
    words: Annotated[
        int, typer.Option(min=100, help="absorption: at most so many words of the vocabulary.")
    ] = 20_000,
    probing: Annotated[
        list[str] | None,
        typer.Option(
            "--probing",
            metavar="FILE|DATASET",
            help="probing, scr, tree: labelled texts, JSON lines or a data set of the hub; repeatable.",
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Their column of texts.")] = "text",
    label_column: Annotated[str, typer.Option(help="Their column of labels.")] = "label",
    spurious: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="scr: a second label, such as gender."),
    ] = None,
    texts: Annotated[
        int, typer.Option(min=20, help="At most so many texts of each, drawn by the seed.")
    ] = 5000,
    parallel: Annotated[
        list[Path] | None,
        typer.Option(
            "--parallel",
            metavar="FILE",
            help="cross-lingual: the same sentences, line by line; once for each language.",
        ),
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--beside", metavar="REF", help="Another SAE of the same place; repeatable."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of all that is drawn; the run's without it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for eval/; a local SAE's own without it.", metavar="FOLDER"),
    ] = None,
    model: Model = None,
    device: Device = None,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Measure an SAE on text it has not seen.

    Its flat baseline, and the other SAEs of its run, are measured on the same text. A run folder keeps a report and a
    plot of each task in eval/, where its card finds them; what is done is not done again for the same weights, data
    and options. Without --text it is measured on what the run held out, or on documentation that Python carries.
    Numbers have 95 % intervals there. An SAE of an embedding's rows is measured on all rows that are held out.

    \b
    Tasks:
      core           reconstruction, sparsity, the language model's loss
      absorption     first letters of the vocabulary's words (Chanin et al. 2024)
      probing        labels told by the best 1, 2, 5 and 20 latents: --probing
      scr            spurious correlations removed, classes perturbed: --probing, --spurious
      cross-lingual  latents shared by translations: --parallel
      tree           what children add and mean; with --probing also of labels

    \b
    Examples:
      hsae eval runs/mine
      hsae eval org/name --text 'books/*.txt' --tokens 100000
      hsae eval runs/mine --on probing,tree --probing topics.jsonl
      hsae eval runs/mine --on cross-lingual --parallel en.txt --parallel de.txt
    """
    output = Output("eval", json=json, quiet=quiet, no_progress=no_progress)
    tasks = _tasks(on)
    if out is not None:
        out.mkdir(
            parents=True, exist_ok=True
        )  # what cannot be written is told before hours of work
    found = find(ref, hub, output, whole=True)

    from hsae_hub.evaluation import Bench
    from hsae_hub.evaluation.labelled import Columns, read_labelled

    on_what = measuring(found, files)
    seed = on_what.seed if seed is None else seed
    columns = Columns(text_column, label_column, spurious)
    sets = [read_labelled(each, columns, limit=texts, seed=seed) for each in probing or []]
    folder = out or found.own
    command = _command(
        ref,
        [
            ("--on", [] if on == "core" else [",".join(tasks)]),
            ("--text", _names(files)),
            ("--tokens", [str(tokens)] if tokens else []),
            ("--words", [] if words == 20_000 else [str(words)]),
            ("--probing", _names(probing)),
            ("--text-column", [] if text_column == "text" else [text_column]),
            ("--label-column", [] if label_column == "label" else [label_column]),
            ("--spurious", [spurious] if spurious else []),
            ("--texts", [] if texts == 5000 else [str(texts)]),
            ("--parallel", _names(parallel)),
            ("--beside", _names(others)),
            ("--seed", [] if seed == on_what.seed else [str(seed)]),
            ("--model", _names([model] if model else None)),
        ],
    )
    with output.bars() as bars:
        bench = Bench(
            found.sae,
            beside=beside(found) | _others(others, hub, output, found),
            model=model,
            seed=seed,
            device=device,
            folder=folder,
            command=command,
            on_progress=bars.update,
        )
        reports = []
        for task in tasks:
            reports.append(_run(task, bench, on_what, tokens, words, sets, parallel or []))
            if folder is not None:
                _save(reports[-1], folder)
    data = {report.name: report.model_dump(by_alias=True) for report in reports}
    text = "\n\n".join(_text(report) for report in reports)
    output.result({"ref": ref, "reports": data}, text, f"{_first(reports[0]):.4f}")


def _tasks(on: str) -> list[str]:
    tasks = list(dict.fromkeys(task.strip() for task in on.split(",") if task.strip()))
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks:
        named = repr(unknown[0]) if unknown else "nothing"
        raise UsageError(f"--on names {named}; expected some of {', '.join(TASKS)}")
    return tasks


def _run(
    task: str,
    bench: Bench,
    on: Measuring,
    tokens: int | None,
    words: int,
    sets: list[Labelled],
    parallel: list[Path],
) -> Report:
    from hsae_hub.evaluation import (
        measure_absorption,
        measure_core,
        measure_cross_lingual,
        measure_probing,
        measure_scr,
        measure_tree,
        read_parallel,
    )

    run: dict[str, Callable[[], Report]] = {
        "core": lambda: measure_core(bench, on.data, tokens=tokens or on.tokens),
        "absorption": lambda: measure_absorption(bench, words=words),
        "probing": lambda: measure_probing(bench, sets),
        "scr": lambda: measure_scr(bench, sets),
        "cross-lingual": lambda: measure_cross_lingual(bench, read_parallel(parallel)),
        "tree": lambda: measure_tree(bench, on.data, sets, tokens=tokens or on.tokens),
    }
    return run[task]()


def _others(
    refs: list[str] | None, hub: str | None, out: Output, found: Found
) -> dict[str, SAE[Any]]:
    taken = {"sae", *beside(found)}
    loaded = {}
    for ref in refs or []:
        name = Path(ref).name if Path(ref).exists() else ref
        if name in taken or name in loaded:
            raise UsageError(f"--beside gives two SAEs the name {name!r}", fix="rename a folder")
        loaded[name] = find(ref, hub, out).sae
    return loaded


def _save(report: Report, folder: Path) -> None:
    from hsae_hub.artifact import write_atomic
    from hsae_hub.evaluation.plots import plot

    path = report.save(folder).with_suffix(".svg")
    write_atomic(path, lambda partial: plot(report, partial))


def _command(ref: str, options: list[tuple[str, list[str]]]) -> str:
    """The command for the card, which strangers read: of local paths only the names."""
    words = ["hsae", "eval", *_names([ref])]
    words += [word for name, values in options for value in values for word in (name, value)]
    return shlex.join(words)


def _names(given: list[str] | list[Path] | None) -> list[str]:
    """Of what lies on this machine the name alone."""
    return [
        Path(each).name if Path(each).exists() or "*" in str(each) else str(each)
        for each in given or []
    ]


def _first(report: Report) -> float:
    names = {each.name: each.value for each in report.results}
    return names.get("explained_variance", report.results[0].value if names else float("nan"))


def _text(report: Report) -> str:
    from hsae_hub.evaluation import CoreReport

    if isinstance(report, CoreReport):
        return _core_text(report)
    saes = report.by_sae()
    by_name = {sae: {each.name: each for each in results} for sae, results in saes.items()}
    names = dict.fromkeys(each.name for results in saes.values() for each in results)
    rows = [(name, *_cells(name, by_name)) for name in names]
    head = ("", *(cell for name in saes for cell in (name, "95 %")))
    note = f"\n\n{report.details['note']}" if "note" in report.details else ""
    return f"{report.name}: {'; '.join(report.data)}\n\n{table(head, rows)}{note}"


def _cells(name: str, saes: dict[str, dict[str, Result]]) -> Iterator[str]:
    for results in saes.values():
        each = results.get(name)
        yield _number(each.value if each else None)
        known = each is not None and each.low is not None and each.high is not None
        yield f"{each.low:.4f} to {each.high:.4f}" if each and known else ""


def _core_text(report: CoreReport) -> str:
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
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4f}"
