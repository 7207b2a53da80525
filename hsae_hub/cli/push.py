"""`hsae push`: SAEs published on a hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsae_hub.cli.common import SHORT, HubOption, Json, NoProgress, Output, Quiet, pairs, size_text

if TYPE_CHECKING:
    from hsae_hub.hub import Pushed

_LISTED = 12
"""Files of one kind that are shown."""


def push(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a run, of an SAE, or of several runs.")
    ],
    repo: Annotated[
        str,
        typer.Argument(
            metavar="REPO",
            help="org/name, made if it is not there; org/name:sae adds a run to a collection.",
        ),
    ],
    public: Annotated[
        bool, typer.Option("--public/--private", help="Let everybody see it; private without this.")
    ] = False,
    tag: Annotated[str | None, typer.Option(help="Name this commit for good, such as v1.")] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    license: Annotated[
        str | None, typer.Option(help="Licence of the weights, as its SPDX name, for the card.")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove what was pushed before and is not in DIR.")
    ] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Propose it to the owners of REPO instead.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check everything, say what would be published, write nothing."
        ),
    ] = False,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Publish a run with its card, in one commit.

    A folder of several runs becomes a collection: a folder for each SAE, org/name:sae, and one card for all.
    Pushing more runs to it keeps those that are there.

    \b
    Examples:
      hsae push runs/mine org/name --dry-run
      hsae push runs/mine org/name --tag v1
      hsae push runs org/sweep
      hsae push runs/mine org/sweep:layer_12
      hsae push runs/mine me/name --hub ./shared-folder
    """
    out = Output("push", json=json, quiet=quiet, no_progress=no_progress)

    from hsae_hub.hub import Hub

    with out.bars() as bars:
        pushed = Hub(hub).push(
            folder,
            repo,
            public=public,
            tag=tag,
            message=message,
            license=license,
            prune=prune,
            create_pr=create_pr,
            dry_run=dry_run,
            on_progress=partial(bars.update, in_bytes=True),
        )
    data = {**pushed._asdict(), "plan": pushed.plan._asdict(), "dry_run": dry_run}
    out.result(data, _text(pushed, dry_run, create_pr), pushed.url)


def _text(pushed: Pushed, dry_run: bool, create_pr: bool) -> str:
    plan = pushed.plan
    verb = "proposed" if create_pr else "published"
    done = f"would be {verb}" if dry_run else verb if pushed.changed else "was there already"
    commit = f" at {pushed.commit[:SHORT]}" if pushed.commit and not dry_run else ""
    seen = "private" if pushed.private else "public"
    head = f"{pushed.repo}{commit} {done} ({seen}, {size_text(plan.size)})"
    files = [
        (name, _few(paths))
        for name, paths in (
            ("added", plan.add),
            ("changed", plan.change),
            ("removed", plan.remove),
            ("same", plan.same),
            ("stays", plan.stays),
            ("left out", plan.left_out),
        )
        if paths
    ]
    saes = [("saes", _few(pushed.saes))] if pushed.saes != (pushed.repo,) else []
    tag = [("tag", pushed.tag)] if pushed.tag else []
    hint = [("", "what stays goes with --prune")] if plan.stays else []
    return f"{head}\n{pairs([*saes, *files, *hint, *tag, ('url', pushed.url)])}"


def _few(paths: tuple[str, ...]) -> str:
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(paths[:_LISTED]) + more
