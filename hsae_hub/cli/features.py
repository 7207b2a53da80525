"""`hsae index`, `hsae feature`, `hsae find`: what each latent of an SAE acts on."""

from __future__ import annotations

import shlex
import shutil
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsae_hub.cli.common import (
    Device,
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
from hsae_hub.cli.loading import Model, find, is_shipped, measuring
from hsae_hub.errors import UsageError

if TYPE_CHECKING:
    from hsae_hub.features import FeatureIndex

IndexFolder = Annotated[
    Path | None,
    typer.Option("--index", help="Folder of the index; that of the SAE without it.", metavar="DIR"),
]
Html = Annotated[
    Path | None, typer.Option("--html", help="Write a self-contained page.", metavar="FILE")
]


class By(StrEnum):
    """What is searched."""

    LABEL = "label"
    TOKEN = "token"
    TEXT = "text"


def index(
    ref: Ref,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="FILE", help="Read these files or globs; repeatable."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="About so many tokens.")] = 1_000_000,
    out: Annotated[
        Path | None, typer.Option(help="Folder for features/; that of the SAE without it.")
    ] = None,
    model: Model = None,
    device: Device = None,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Find out what every latent acts on.

    One pass over a text: strongest and typical contexts, strengths, the tokens that a latent pushes, its neighbours.
    Without --data the text is what the run was trained on, or documentation that Python carries. Files in features/
    open in pandas and DuckDB. After a kill: the same again.

    \b
    Examples:
      hsae index runs/mine
      hsae index org/name --data 'books/*.txt' --tokens 5000000 --out indexes/name
    """
    output = Output("index", json=json, quiet=quiet, no_progress=no_progress)
    found = find(ref, hub, output)
    folder = out or found.own
    if folder is None:
        place = (
            "in the cache"
            if found.revision is not None
            else "inside this package"
            if is_shipped(found.folder)
            else "in a folder that cannot be written"
        )
        raise UsageError(
            f"{ref} is {place}, where nothing is written beside it",
            fix="give --out DIR; later --index DIR",
        )

    from hsae_hub.features import build_index

    on = measuring(found, data)
    with output.bars() as bars:
        made = build_index(
            found.sae,
            on.data,
            folder,
            tokens=tokens,
            model=model,
            sample_seed=on.seed,
            device=device,
            command=_command(ref, data, tokens, model),
            on_progress=bars.update,
        )
    size = sum(each["size"] for each in made.info["files"].values())
    alive = found.sae.d_sae - made.info["dead_latents"]
    rows = [
        ("index", str(made.folder)),
        ("text", "; ".join(made.info["data"])),
        ("tokens", f"{made.info['tokens']:,} in {made.info['contexts']:,} contexts"),
        ("acted", f"{alive:,} of {found.sae.d_sae:,} latents"),
        ("on disk", size_text(size)),
    ]
    told = {"folder": str(made.folder), "resumed_from": made.resumed_from, "index": made.info}
    output.result({"ref": ref, **told}, pairs(rows), str(made.folder))


def feature(
    ref: Ref,
    name: Annotated[str, typer.Argument(metavar="FEATURE", help="Such as 4121 or 4121/3.")],
    html: Html = None,
    index: IndexFolder = None,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Show a feature: its contexts, strengths, logits and family.

    \b
    Examples:
      hsae feature runs/mine 691/11
      hsae feature runs/mine 691 --html 691.html
    """
    output = Output("feature", json=json, quiet=quiet, no_progress=no_progress)
    page = open_index(ref, index, hub, output).feature(name)
    if html is not None:
        write_html(html, f"{page.label} {page.feature}", [page.to_html()])
        output.talk(f"wrote {html}")
    text = page.to_text(shutil.get_terminal_size().columns)
    output.result({"ref": ref, **page.to_dict()}, text, page.label)


def find_features(
    ref: Ref,
    query: Annotated[str, typer.Argument(help="Words, a token, or a piece of text.")],
    by: Annotated[
        By, typer.Option(help="Search labels, tokens, or strongest contexts.")
    ] = By.LABEL,
    limit: Annotated[int, typer.Option(min=1, help="Features shown.")] = 20,
    html: Html = None,
    index: IndexFolder = None,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Look for features by label, by token, or by text.

    \b
    Examples:
      hsae find runs/mine army
      hsae find runs/mine ' king' --by token
    """
    output = Output("find", json=json, quiet=quiet, no_progress=no_progress)
    opened = open_index(ref, index, hub, output)
    hits = opened.find(query, by=by.value, limit=limit)
    if html is not None:
        from hsae_hub.features.pages import hits_page
        from hsae_hub.render import page_html

        write_html(html, query, [page_html(hits_page(query, by.value, hits))])
        output.talk(f"wrote {html}")
    output.result(
        {"ref": ref, "query": query, "by": by.value, "features": hits},
        _hits_text(hits) if hits else f"no feature of {ref} by {by.value} {query!r}",
        "\n".join(hit["feature"] for hit in hits),
    )


def open_index(ref: str, folder: Path | None, hub: str | None, output: Output) -> FeatureIndex:
    """The index of an SAE: in the given folder, or beside it.

    Raises:
        NotFoundError: there is none.
        CorruptError: it is not an index that this release reads.
    """
    from hsae_hub.features import FeatureIndex

    if folder is not None:
        return FeatureIndex.open(folder)
    from hsae_hub.hub import load_features

    with output.bars() as bars:
        return load_features(ref, hub=hub, on_progress=bars.of_bytes("pulling"))


def write_html(path: Path, title: str, pieces: list[str]) -> None:
    """Writes a whole HTML document."""
    from hsae_hub.artifact import write_atomic
    from hsae_hub.render import html_document

    write_atomic(path, html_document(title, pieces))


def _hits_text(hits: list[dict[str, Any]]) -> str:
    from hsae_hub.render import visible

    width = shutil.get_terminal_size().columns
    rows = [
        (hit["feature"], f"{hit['density']:.3%}", visible(hit["label"]), visible(hit["found"]))
        for hit in hits
    ]
    shown = [row if row[2] != row[3] else (*row[:3], "") for row in rows]
    lines = table(("feature", "density", "label", ""), shown).splitlines()
    return "\n".join(line[: max(width, 40)].rstrip() for line in lines)


def _command(ref: str, files: list[str] | None, tokens: int, model: str | None) -> str:
    """The command for the index, which strangers read: of local paths only the names."""
    words = ["hsae", "index", Path(ref).name if Path(ref).exists() else ref]
    words += [word for file in files or () for word in ("--data", Path(file).name)]
    words += ["--tokens", str(tokens)]
    words += ["--model", Path(model).name if Path(model).exists() else model] if model else []
    return shlex.join(words)


def labels_of(folder: Path) -> dict[str, str]:
    """Labels by feature, where an index lies in the folder."""
    from hsae_hub.errors import NotFoundError
    from hsae_hub.features import FeatureIndex

    try:
        return FeatureIndex.open(folder).all_labels()
    except NotFoundError:
        return {}
