"""`hsae attribute`: which latents do most to what a language model says."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hsae_hub.cli.common import Device, HubOption, Json, NoProgress, Output, Quiet, Ref
from hsae_hub.cli.loading import Model, find, read_file, read_text
from hsae_hub.errors import UsageError


class Method(StrEnum):
    """How effects are estimated."""

    GRADIENT = "gradient"
    INTEGRATED = "integrated"


def attribute(
    ref: Ref,
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="A text; - reads it from stdin.", show_default=False),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Read the text from a file.")] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="A next token, such as ' corgi': its log-probability. Without it the text's loss."
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Another token: the difference of the two logits.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="REF", help="Another SAE on the same model, for a graph; repeatable."),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="Gradient times act, or integrated gradients.")
    ] = Method.GRADIENT,
    steps: Annotated[int, typer.Option(min=1, help="Steps of integrated gradients.")] = 16,
    top: Annotated[int, typer.Option(min=1, help="Latents shown.")] = 10,
    check: Annotated[int, typer.Option(min=0, help="Ablate so many of them for real.")] = 0,
    model: Model = None,
    device: Device = None,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Find the latents that do most to a loss or a next token.

    An effect is about what the target loses without the latent on that token; parents and children count apart.

    \b
    Examples:
      hsae attribute org/name 'My favourite dog is a' --target ' corgi' --against ' cat' --check 5
      hsae attribute runs/l3 --file page.txt --also runs/l5
    """
    out = Output("attribute", json=json, quiet=quiet, no_progress=no_progress)
    if (text is None) == (file is None):
        raise UsageError("give a text or --file, one of them", fix="hsae attribute -h")
    if against is not None and target is None:
        raise UsageError(
            "--against is compared with --target", fix="--target ' corgi' --against ' cat'"
        )
    words = read_text(text or "") if file is None else read_file(file)
    names = [ref, *(also or [])]
    found = {name: find(name, hub, out) for name in names}

    from hsae_hub.attach import attach

    saes = {name: each.sae for name, each in found.items()}
    lm = attach(saes if len(saes) > 1 else saes[ref], model, device=device)
    asked = (target, against) if target is not None and against is not None else target
    result = lm.attribute(words, asked, method=method.value, steps=steps, top=top, check=check)
    refs = [{"ref": name, "revision": each.revision} for name, each in found.items()]
    features = [one.feature for one in result.effects]
    out.result({"refs": refs, "text": words, **result.to_dict()}, str(result), "\n".join(features))
