"""The model card: what a run's own files say, in words; what they do not say is said to be missing.

Its sections follow Mitchell et al. 2019 (arXiv 1810.03993) as far as they mean something for an SAE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from hsae_hub.artifact import WEIGHTS
from hsae_hub.assets import assets
from hsae_hub.card import escape, measured, sections
from hsae_hub.card.check import (
    NOTES_BEGIN,
    NOTES_END,
    NOTES_HINT,
    TAGS,
    license_of,
    notes_of,
)
from hsae_hub.card.gallery import gallery_of
from hsae_hub.card.reports import dict_of, list_of
from hsae_hub.card.run import Run
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
    run = Run(folder)
    name = repo.rpartition("/")[2] if repo else folder.resolve().name
    chosen = choose_license(license, (run.card, previous or ""))
    results = [measured.index_result(run)] if run.metrics() else []
    config = run.config
    return fill(
        "model.md.jinja",
        front=front([run], name, chosen, results),
        title=name,
        cards=(run.card, previous or ""),
        repo=repo,
        ref=repo or f"./{name}",
        what=sections.what(run),
        shape=sections.shape(config),
        model_id=config.model.id if config.model else "the language model it was trained on",
        d_in=config.sae.d_in,
        is_of_rows=run.is_of_rows,
        intended=sections.intended(run),
        out_of_scope=sections.out_of_scope(run),
        reads=sections.reads(config),
        input=sections.input(config),
        core=measured.core(run),
        others=list(measured.others(run)),
        baseline=sections.described(run.baseline) if run.baseline else "A flat SAE",
        baseline_folder=escape.code(config.baseline or "baseline"),
        gallery=gallery_of(run.gallery, config.files[WEIGHTS].sha256),
        training=sections.training(run),
        data=config.training.data if config.training else [],
        heldout=run.core.data if run.core else [],
        limits=list(sections.limits(run)),
        licences=list(sections.licences(run, chosen)),
        citations=sections.citations([run]),
        files=list(sections.files(run)),
    )


def fill(template: str, *, cards: Sequence[str], **values: Any) -> str:
    """A template of `cards/` with its values, every one of which has to be given, and the notes of the first of the
    earlier `cards` that has any.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (assets("cards") / name).read_text("utf-8")),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        md=escape.md, line=escape.line, pystr=escape.pystr, shell=escape.shell
    )
    notes = next(filter(None, map(notes_of, cards)), NOTES_HINT)
    mark = uuid4().hex  # no value holds it
    before, after = environment.get_template(template).render(notes=mark, **values).split(mark)
    parts = [re.sub(r"\n{3,}", "\n\n", part) for part in (before, after)]
    return f"{parts[0]}{NOTES_BEGIN}\n{notes}\n{NOTES_END}{parts[1].rstrip()}\n"


def choose_license(license: str | None, cards: Sequence[str]) -> str | None:
    """The licence that is given, else that of the first card which states one.

    Raises:
        UsageError: it is none.
    """
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise UsageError(f"{license!r} is no licence, expected an identifier such as apache-2.0")
    return license or next(filter(None, map(license_of, cards)), None)


def front(
    runs: Sequence[Run], name: str, license: str | None, results: Sequence[Mapping[str, Any]]
) -> str:
    """The metadata of a card."""
    found = sorted({tag for run in runs for tag in _found_by(run)}, key=_in_order)
    tags = list(dict.fromkeys([*TAGS, *found]))
    data: dict[str, Any] = {"library_name": LIBRARY, "license": license or "unknown", "tags": tags}
    models = dict.fromkeys(run.config.model.id for run in runs if run.config.model)
    known = [model for model in models if sections.is_repo(model)]
    if all(run.is_tiny for run in runs):
        data["language"] = ["en"]
    elif known:
        data["base_model"] = known[0] if len(known) == 1 else known
    sources = [
        source
        for run in runs
        for source in list_of(dict_of(run.recipe.get("data")).get("train"))
        if dict_of(source).get("dataset")
    ]
    if sources:
        data["datasets"] = list(dict.fromkeys(str(source["dataset"]) for source in sources))
    if results:
        data["model-index"] = [{"name": name, "results": list(results)}]
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)


def _found_by(run: Run) -> list[str]:
    """Tags by which a search finds it: its architecture, its layer, and a model of no repository."""
    tags = [run.config.sae.architecture]
    layer = sections.layer_of(run.config)
    if layer is not None:
        tags.append(f"layer-{layer}")
    model = run.config.model
    if model is not None and re.fullmatch(r"[A-Za-z0-9][\w.-]*", model.id):
        tags.append(f"model-{model.id}")
    return tags


def _in_order(tag: str) -> tuple[str, int]:
    name, _, number = tag.rpartition("-")
    return (name, int(number)) if number.isdecimal() and name == "layer" else (tag, 0)
