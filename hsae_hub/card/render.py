"""The model card: what a run's own files say, in words; what they do not say is said to be missing.

Its sections follow Mitchell et al. 2019 (arXiv 1810.03993) as far as they mean something for an SAE.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from hsae_hub.assets import assets
from hsae_hub.card import escape, sections
from hsae_hub.card.check import (
    NOTES_BEGIN,
    NOTES_END,
    NOTES_HINT,
    TAGS,
    license_of,
    notes_of,
)
from hsae_hub.card.run import Run, dict_of, list_of
from hsae_hub.errors import UsageError

LIBRARY = "hsae-hub"


def render_card(
    folder: Path,
    *,
    repo: str | None = None,
    license: str | None = None,
    previous: str | None = None,
) -> str:
    """The card of the SAE in a folder, from the JSON and YAML files of its run alone.

    `repo` is the name it is published under. Notes between the markers, and the licence, are kept from the folder's own
    card, else from `previous`, an earlier one.

    Raises:
        NotFoundError: the folder holds no SAE.
        CorruptError: one of the files cannot be read.
        UsageError: `license` is not a licence's identifier, such as apache-2.0.
    """
    import jinja2

    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise UsageError(f"{license!r} is no licence, expected an identifier such as apache-2.0")
    run = Run(folder)
    name = repo.rpartition("/")[2] if repo else folder.resolve().name
    chosen = license or license_of(run.card) or license_of(previous or "") or "unknown"
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True
    )
    environment.filters.update(
        md=escape.md, line=escape.line, pystr=escape.pystr, shell=escape.shell
    )
    template = environment.from_string((assets("cards") / "model.md.jinja").read_text("utf-8"))
    measured, flat = run.metrics("sae"), run.metrics("baseline")
    model = run.config.model
    return template.render(
        front=_front(run, name, chosen),
        title=name,
        what=sections.what(run),
        shape=sections.shape(run.config),
        notes_begin=NOTES_BEGIN,
        notes=notes_of(run.card) or notes_of(previous or "") or NOTES_HINT,
        notes_end=NOTES_END,
        repo=repo,
        ref=repo or f"./{name}",
        model_id=model.id if model else "the language model it was trained on",
        d_in=run.config.sae.d_in,
        is_of_rows=run.is_of_rows,
        reads=sections.reads(run.config),
        input=sections.input(run.config),
        metrics=sections.metrics(measured, flat, is_of_rows=run.is_of_rows),
        measured_on=sections.measured_on(run),
        command=str(run.core.get("command") or "not recorded"),
        has_baseline=bool(flat),
        baseline=sections.described(run.baseline) if run.baseline else "A flat SAE",
        baseline_folder=escape.code(run.config.baseline or "baseline"),
        training=sections.training(run),
        data=run.config.training.data if run.config.training else [],
        heldout=[str(line) for line in list_of(run.core.get("data"))],
        limits=list(sections.limits(run, measured)),
        citations=sections.citations(run),
        files=list(sections.files(run)),
        licence="not stated by its author" if chosen == "unknown" else chosen,
    )


def _front(run: Run, name: str, license: str) -> str:
    data: dict[str, Any] = {"library_name": LIBRARY, "license": license, "tags": list(TAGS)}
    if run.is_tiny:
        data["language"] = ["en"]
    elif run.config.model is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", run.config.model.id):
        data["base_model"] = run.config.model.id
    sources = list_of(dict_of(run.recipe.get("data")).get("train"))
    named = [str(source["dataset"]) for source in sources if dict_of(source).get("dataset")]
    if named:
        data["datasets"] = list(dict.fromkeys(named))
    measured = run.metrics("sae")
    if measured:
        data["model-index"] = [_index(run, name, measured)]
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)


def _index(run: Run, name: str, measured: dict[str, float]) -> dict[str, Any]:
    wanted = ("explained_variance", "l0", "ce_score", "kl", "dead_latents")
    metrics = [
        {"type": key, "name": key.replace("_", " "), "value": round(measured[key], 6)}
        for key in wanted
        if key in measured
    ]
    read, kind, unit = ("rows",) * 3 if run.is_of_rows else ("activations", "text", "tokens")
    held_out = f"{sections.count(run.core.get('tokens'))} held-out {unit}"
    return {
        "name": name,
        "results": [
            {
                "task": {"type": "feature-extraction", "name": f"Reconstruction of {read}"},
                "dataset": {"type": f"held-out-{kind}", "name": held_out},
                "metrics": metrics,
            }
        ],
    }
