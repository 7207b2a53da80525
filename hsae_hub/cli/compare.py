"""`hsae compare`: two SAEs on one token, feature beside feature."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from hsae_hub.cli.common import Device, HubOption, Json, NoProgress, Output, Quiet
from hsae_hub.cli.features import Html, labels_of, write_html
from hsae_hub.cli.loading import Model, find, read_text
from hsae_hub.errors import UsageError

First = Annotated[str, typer.Argument(metavar="A", help="An SAE, such as a flat one.")]
Second = Annotated[str, typer.Argument(metavar="B", help="Another one of the same place.")]


def compare(
    first: First,
    second: Second,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A text; - reads it from stdin.")],
    token: Annotated[
        str, typer.Option(help="The token that is compared.", metavar="N|last")
    ] = "last",
    top: Annotated[int, typer.Option(min=1, help="Parents shown of each.")] = 8,
    html: Html = None,
    model: Model = None,
    device: Device = None,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Compare two SAEs on one token: which features say the same.

    Features that act there are matched by the cosine of their decoder rows.

    \b
    Examples:
      hsae compare runs/mine/baseline runs/mine 'The queen asked her corgi'
      hsae compare org/flat org/tree 'The queen asked her corgi' --html compare.html
    """
    out = Output("compare", json=json, quiet=quiet, no_progress=no_progress)
    if token != "last" and not token.removeprefix("-").isdecimal():
        raise UsageError(f"--token takes a number or last, got {token!r}")
    words = read_text(text)
    found = [find(ref, hub, out) for ref in (first, second)]

    from hsae_hub.attach import attach
    from hsae_hub.features.comparing import compare_on

    one = attach(found[0].sae, model, device=device)
    other = attach(found[1].sae, one.lm, device=device)
    result = compare_on(
        one,
        other,
        words,
        token=-1 if token == "last" else int(token),
        top=top,
        labels=(labels_of(found[0].folder), labels_of(found[1].folder)),
    )
    if html is not None:
        write_html(html, words, result.pieces())
        out.talk(f"wrote {html}")
    matched = [f"{a} {match.feature}" for a, match in result.first.matches.items()]
    drawn = result.to_text(shutil.get_terminal_size().columns)
    out.result({"refs": [first, second], **result.to_dict()}, drawn, "\n".join(matched))
