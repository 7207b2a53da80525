"""`hsae import`: an SAE of another toolkit as one of this package's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsae_hub.cli.common import HubOption, Json, NoProgress, Output, Quiet, pairs

if TYPE_CHECKING:
    from hsae_hub.artifact import ArtifactConfig

_FORMATS = "sae-lens, sparsify, dictionary-learning, gemma-scope, gemma-scope-2, hsae-jax or openai"


def import_sae(
    ref: Annotated[
        str,
        typer.Argument(
            help="A folder, or org/name[@revision][:subfolder] on the hub.", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder to write.", show_default=False)
    ],
    format: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"{_FORMATS}; known by its files without this."),
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Read weights that are a pickle; only tensors, numbers and texts are taken from it.",
        ),
    ] = False,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Read an SAE of another toolkit and write it as one of ours.

    It computes what it did. Where it came from, what was changed and what its files do not say is recorded.

    \b
    Examples:
      hsae import google/gemma-scope-2b-pt-res:layer_20/width_16k/average_l0_71 ./scope
      hsae import ./trainer_0 ./mine --allow-pickle
    """
    output = Output("import", json=json, quiet=quiet, no_progress=no_progress)

    from hsae_hub.artifact import save_sae
    from hsae_hub.errors import UsageError
    from hsae_hub.hub import import_sae as read

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty", fix="give another folder")
    with output.bars() as bars:
        imported = read(
            ref,
            hub=hub,
            allow_pickle=allow_pickle,
            format=format,
            on_progress=bars.of_bytes("fetching"),
        )
    config = imported.config
    written = save_sae(
        imported.sae,
        out,
        model=config.model,
        hookpoint=config.hookpoint,
        tokens=config.tokens,
        imported=config.imported,
    )
    data = {"folder": str(out), "config": written.model_dump(mode="json")}
    output.result(data, _text(str(out), written), str(out))


def _text(folder: str, config: ArtifactConfig) -> str:
    assert config.imported is not None
    sae = f"{config.sae.architecture}, {config.sae.shape().d_sae:,} latents, {config.dtype}"
    rows = [("written", folder), ("format", config.imported.format), ("sae", sae)]
    if config.model is not None:
        rows.append(("model", config.model.id))
    if config.hookpoint is not None:
        rows.append(("hookpoint", f"{config.hookpoint.side} of {config.hookpoint.path}"))
    return pairs([*rows, *(("note", note) for note in config.imported.notes)])
