"""`hsae labels`: words for features, from a language model, from Neuronpedia, and back to it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsae_hub.cli.common import HubOption, Json, NoProgress, Output, Quiet, Ref, table
from hsae_hub.cli.features import IndexFolder, open_index
from hsae_hub.cli.loading import is_shipped
from hsae_hub.errors import UsageError

if TYPE_CHECKING:
    from hsae_hub.features import FeatureIndex

app = typer.Typer(help="Name features, with a language model or from Neuronpedia.")


@app.command()
def explain(
    ref: Ref,
    features: Annotated[
        list[str] | None,
        typer.Argument(metavar="FEATURE…", help="Such as 691 691/11; those of the card without."),
    ] = None,
    endpoint: Annotated[
        str, typer.Option(help="An address that speaks OpenAI's API.", metavar="URL")
    ] = "http://localhost:8000/v1",
    model: Annotated[str, typer.Option(help="Name of the model there.")] = "default",
    index: IndexFolder = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Let a language model explain features, and score what it says.

    It sees the strongest contexts. The score is how well it then tells, by its own words alone, other contexts with the
    feature from random ones: 0.5 is chance. Texts of the index are sent to the endpoint; its token is read from
    HSAE_LLM_TOKEN.

    \b
    Examples:
      hsae labels explain runs/mine 691 691/11 --endpoint http://localhost:11434/v1 --model gemma3
      HSAE_LLM_TOKEN=… hsae labels explain runs/mine --endpoint https://host/v1 --model NAME
    """
    out = Output("labels_explain", json=json, quiet=quiet, no_progress=no_progress)
    opened = _own_index(ref, index, out)

    from hsae_hub.features.endpoint import Endpoint
    from hsae_hub.features.gallery import features_of
    from hsae_hub.features.interpreting import interpret

    names = features or features_of(opened.folder)
    made = []
    with out.bars() as bars:
        asked = interpret(opened, names, Endpoint(endpoint, model).ask, source=model)
        for found in asked:
            made.append(found)
            opened.add_labels({found.feature: found.label})
            bars.update("explaining", len(made), len(names))
    data = [{"feature": each.feature, **each.label._asdict()} for each in made]
    rows = [
        (e.feature, "" if e.label.score is None else f"{e.label.score:.2f}", e.label.label)
        for e in made
    ]
    text = table(("feature", "score", "label"), rows)
    out.result({"ref": ref, "labels": data}, text, "\n".join(e.label.label for e in made))


@app.command(name="import")
def import_(
    ref: Ref,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Explanations from Neuronpedia.")],
    index: IndexFolder = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Take labels from a file or folder of Neuronpedia's.

    \b
    Examples:
      hsae labels import runs/mine explanations/batch-0.jsonl.gz
    """
    out = Output("labels_import", json=json, quiet=quiet, no_progress=no_progress)
    opened = _own_index(ref, index, out)

    from hsae_hub.features.neuronpedia import import_labels

    found = import_labels(path, opened.shape)
    opened.add_labels(found)
    data = {name: label._asdict() for name, label in found.items()}
    out.result({"ref": ref, "labels": data}, f"{len(found):,} labels", str(len(found)))


@app.command()
def export(
    ref: Ref,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the export is written.")],
    source: Annotated[
        str, typer.Option(help="Layer and name of the source there.", metavar="LAYER-NAME")
    ],
    creator: Annotated[str, typer.Option(help="Id of the user who uploads it.")] = "hsae-hub",
    index: IndexFolder = None,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Write the index in Neuronpedia's bulk format.

    \b
    Examples:
      hsae labels export runs/mine neuronpedia --source 3-hsae-1024x16
    """
    out = Output("labels_export", json=json, quiet=quiet, no_progress=no_progress)
    opened = open_index(ref, index, hub, out)

    from hsae_hub.features.neuronpedia import export_neuronpedia

    with out.bars() as bars:
        made = export_neuronpedia(
            opened,
            folder,
            source=source,
            creator=creator,
            on_progress=partial(bars.update, "writing"),
        )
    out.result({"ref": ref, "folder": str(made)}, f"wrote {made}", str(made))


def _own_index(ref: str, folder: Path | None, out: Output) -> FeatureIndex:
    """An index that may be changed: what was pulled stays as it came.

    Raises:
        UsageError: it lies on a hub, or came with this package.
    """
    from hsae_hub.hub import Ref as Reference

    if folder is None:
        own = Reference.parse(ref).folder
        if own is None or is_shipped(own):
            what = (
                "is on a hub, and what was pulled" if own is None else "came with this package, and"
            )
            raise UsageError(
                f"{ref} {what} is not changed", fix="--index DIR    a copy of its features/"
            )
    return open_index(ref, folder, None, out)
