"""The card of a collection: what its SAEs have in common once, and a row for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from hsae_hub.card import measured, sections
from hsae_hub.card.render import choose_license, fill, front
from hsae_hub.card.run import Run

_SHOWN = ("explained_variance", "l0", "ce_score", "dead_latents")


class Compared(NamedTuple):
    """Facts of several SAEs: those that all share, and a table of the others."""

    shared: sections.Rows
    head: list[str]
    rows: list[list[str]]


def render_collection(
    runs: Mapping[str, Run],
    name: str,
    *,
    repo: str | None = None,
    license: str | None = None,
    cards: Sequence[str] = (),
) -> str:
    """The card of several SAEs, by their names, from the JSON and YAML files of their runs alone.

    `name` is that of their folder, `repo` the one that they are published under.
    Notes between the markers, and the licence, are kept from the first of `cards`, earlier ones, that has any.

    Raises:
        UsageError: `license` is not a licence's identifier, such as apache-2.0.
    """
    every = list(runs.values())
    first = next(iter(runs))
    chosen = choose_license(license, cards)
    results = [measured.index_result(run, key) for key, run in runs.items() if run.metrics()]
    models = dict.fromkeys(run.config.model.id for run in every if run.config.model)
    return fill(
        "collection.md.jinja",
        front=front(every, name, chosen, results),
        title=name,
        cards=cards,
        repo=repo,
        ref=f"{repo}:{first}" if repo else f"./{name}/{first}",
        count=len(every),
        models=list(models),
        d_in=every[0].config.sae.d_in,
        saes=[[key, *_summary(run)] for key, run in runs.items()],
        shape=compare(runs, lambda run: sections.shape(run.config)),
        intended=sections.intended(every[0]),
        out_of_scope=sections.out_of_scope(every[0]),
        reads=compare(runs, lambda run: sections.reads(run.config)),
        inputs=compare(
            runs, lambda run: [("input", "the raw activation" + sections.input(run.config))]
        ),
        measured=_measured(runs),
        names=_metrics(every),
        values={key: _values(run, _metrics(every)) for key, run in runs.items()},
        meanings=measured.MEANINGS,
        others={key: tables for key, run in runs.items() if (tables := list(measured.others(run)))},
        training=compare(runs, sections.training),
        data=_lines(run.config.training.data for run in every if run.config.training),
        heldout=_lines(run.core.data for run in every if run.core),
        dead=[f"{key}: {sections.dead_latents(run)}" for key, run in runs.items()],
        limits=_limits(every),
        licences=list(sections.licences(every[0], chosen)),
        citations=sections.citations(every),
        files=[
            {**file, "path": f"{key}/{file['path']}"}
            for key, run in runs.items()
            for file in sections.files(run)
        ],
    )


def compare(runs: Mapping[str, Run], rows_of: Callable[[Run], sections.Rows]) -> Compared:
    """Takes facts apart into those that are the same for all, and the others."""
    facts = {key: dict(rows_of(run)) for key, run in runs.items()}
    names = list(dict.fromkeys(name for each in facts.values() for name in each))
    values = {name: {each.get(name, "") for each in facts.values()} for name in names}
    shared = [(name, values[name].pop()) for name in names if len(values[name]) == 1]
    head = [name for name in names if len(values[name]) > 1]
    rows = [[key, *(each.get(name, "") for name in head)] for key, each in facts.items()]
    return Compared(shared, head, rows if head else [])


def _input(run: Run) -> sections.Rows:
    raw = "row" if run.is_of_rows else "activation"
    return [("input", f"the raw {raw}{sections.input(run.config)}")]


def _measured(runs: Mapping[str, Run]) -> list[tuple[str, measured.Table]]:
    """Where the core metrics come from, once for all SAEs of which the same is said."""
    found: dict[tuple[str, str], list[str]] = {}
    tables = {key: table for key, run in runs.items() if (table := measured.core(run))}
    for key, table in tables.items():
        found.setdefault((table.on, table.command), []).append(key)
    return [(", ".join(keys), tables[keys[0]]) for keys in found.values()]


def _summary(run: Run) -> list[str]:
    config, numbers = run.config, run.core.of() if run.core else {}
    told = config.training
    return [
        config.hookpoint.path if config.hookpoint else "",
        config.sae.architecture,
        f"{config.sae.shape().d_sae:,}",
        f"{told.tokens:,}" if told else "",
        str(told.seed) if told else "",
        *(measured.shown(numbers[name]) if name in numbers else "" for name in _SHOWN),
    ]


def _metrics(runs: Sequence[Run]) -> list[str]:
    found = {name for run in runs for name in run.metrics()}
    return [name for name in measured.MEANINGS if name in found]


def _values(run: Run, names: Sequence[str]) -> list[str]:
    numbers = run.core.of() if run.core else {}
    return [measured.shown(numbers[name]) if name in numbers else "" for name in names]


def _lines(lists: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(line for each in lists for line in each))


def _limits(runs: Sequence[Run]) -> list[str]:
    """What cannot be said of one SAE alone."""
    lines = [line for run in runs for line in sections.limits(run)]
    apart = {sections.dead_latents(run) for run in runs}
    return [
        line
        for line in dict.fromkeys(lines)
        if line not in apart and not line.startswith("The reconstruction")
    ]
