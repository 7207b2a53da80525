"""`hsae pull`, `verify` and `rm`: SAEs on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsae_hub.cli.common import (
    SHORT,
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
from hsae_hub.cli.loading import Model, TextFiles, find, measuring

if TYPE_CHECKING:
    from hsae_hub.evaluation import CoreReport
    from hsae_hub.hub import Pulled, PullPlan, Removal, Verified

_TOKENS = 5000  # of text that a verification measures on: seconds on the embedded model


def pull(
    ref: Ref,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Copy it to this folder too.")
    ] = None,
    features: Annotated[
        bool, typer.Option("--features", help="With the tables of its index, where it has one.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched, and fetch nothing.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash again what was checked before, and heal it.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no hub; all of it has to be here.")
    ] = False,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Bring an SAE to this machine, every byte checked.

    \b
    Examples:
      hsae pull org/name
      hsae pull org/name --dry-run
      hsae pull org/name@v1:layer_20 --out ./here
    """
    output = Output("pull", json=json, quiet=quiet, no_progress=no_progress)

    from hsae_hub.errors import UsageError
    from hsae_hub.hub import Hub
    from hsae_hub.signals import stopped_at_once

    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty", fix="give another --out")
    if dry_run:
        if offline or verify or out is not None:
            raise UsageError("--dry-run goes with none of --offline, --verify and --out")
        plan = Hub(hub).plan_pull(ref, features=features)
        data = {**plan._asdict(), "folder": str(plan.folder), "dry_run": True}
        output.result(data, _plan_text(plan), str(plan.folder))
        return
    kept = "files that were whole are kept, and not fetched again"
    with stopped_at_once(why=kept, fix=f"hsae pull {ref}"), output.bars() as bars:
        pulled = Hub(hub).pull(
            ref,
            features=features,
            verify=verify,
            offline=offline,
            on_progress=bars.of_bytes("pulling"),
        )
        folder = pulled.folder if out is None else _copied(ref, pulled, out)
    data = {**pulled._asdict(), "folder": str(folder), "dry_run": False}
    state = "was here already" if pulled.up_to_date else f"{size_text(pulled.size)}, checked"
    output.talk(f"{pulled.repo} at {pulled.commit[:SHORT]}: {state}")
    output.result(data, str(folder), str(folder))


def verify(
    ref: Ref,
    model: Model = None,
    files: TextFiles = None,
    tokens: Annotated[
        int, typer.Option(min=2, help="About so many tokens are measured.")
    ] = _TOKENS,
    device: Device = None,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Check every byte and value of an SAE, and measure it again.

    Explained variance and L0 are measured beside those of its report, if the model that it names is on this machine, or
    with --model. What differs is told with likely causes; the exit code is 9 then.

    \b
    Examples:
      hsae verify org/name
      hsae verify org/name --model google/gemma-2-2b --device cuda
      hsae verify runs/mine --json
    """
    out = Output("verify", json=json, quiet=quiet, no_progress=no_progress)

    from hsae_hub.errors import CheckFailedError
    from hsae_hub.hub import Hub

    place = Hub(hub)
    with out.bars() as bars:
        verified = place.verify(ref, on_progress=bars.of_bytes("pulling"))
    if verified.passed and (model is not None or _at_hand(verified)):
        report = _measured(ref, hub, files, tokens, model, device, out)
        verified = place.verify(ref, report=report)
    elif verified.passed:
        out.talk(f"nothing is measured: {_why_not(verified)}")
    data = {
        "ref": verified.ref,
        "commit": verified.commit,
        "folder": str(verified.folder),
        "passed": verified.passed,
        "checks": [check._asdict() for check in verified.checks],
        "causes": list(verified.causes),
    }
    if verified.passed or not json:
        out.result(data, _verified_text(verified), verified.commit or verified.ref)
    if not verified.passed:
        failed = [check for check in verified.checks if check.passed is False]
        raise CheckFailedError(
            f"{ref} is not what it is said to be: {failed[0].name} {failed[0].told}",
            why="; ".join(verified.causes),
            fix=f"hsae pull {ref} --verify" if failed[0].name == "files" else "",
            report=data,
        )


def rm(
    ref: Annotated[
        str, typer.Argument(help="org/name[@revision][:subfolder] that was pulled, or its commit.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove an SAE from this machine; the hub keeps it.

    Without a revision, all that were pulled. Contents that another SAE or model needs stay.

    \b
    Examples:
      hsae rm org/name --dry-run
      hsae rm org/name@v1 --yes
    """
    out = Output("rm", json=json, quiet=quiet)

    from hsae_hub.errors import UsageError
    from hsae_hub.hub import Hub

    place = Hub(hub)
    removal = place.plan_rm(ref)
    plan = _removal_text(removal)
    if not (yes or dry_run):
        if json or quiet or not sys.stdin.isatty():
            raise UsageError(
                f"{ref} would be removed ({size_text(removal.size)}), and nobody can be asked",
                fix=f"hsae rm {ref} --yes",
            )
        out.talk(plan)
        if not typer.confirm("remove it?", err=True):
            raise typer.Exit(1)
    if not dry_run:
        place.rm(removal)
    data = {
        "ref": removal.ref,
        "commits": list(removal.commits),
        "files": [str(path) for path in removal.files],
        "size": removal.size,
        "removed": not dry_run,
    }
    done = f"{plan}\n" if dry_run else ""
    told = "would be freed" if dry_run else "freed"
    out.result(data, f"{done}{removal.ref}: {size_text(removal.size)} {told}", removal.ref)


def _copied(ref: str, pulled: Pulled, to: Path) -> Path:
    import shutil

    from hsae_hub.artifact import folder_atomic
    from hsae_hub.hub import Ref as ParsedRef

    subfolder = ParsedRef.parse(ref).subfolder
    with folder_atomic(to) as beside:
        for path in pulled.files:  # the folder may be a shared cache, with files of other tools
            name = path.removeprefix(f"{subfolder}/") if subfolder else path
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pulled.folder / name, beside / name)
    return to


def _plan_text(plan: PullPlan) -> str:
    here = len(plan.files) - len(plan.missing)
    rows = [
        ("sae", f"{plan.repo} at {plan.commit[:SHORT]}"),
        ("files", f"{len(plan.files)}, {size_text(plan.size)}; {here} of them are here"),
        ("to fetch", f"{size_text(plan.missing_size)} of {size_text(plan.free)} that are free"),
        ("to", str(plan.folder)),
    ]
    return pairs(rows + [("", path) for path in plan.missing])


def _at_hand(verified: Verified) -> bool:
    """Whether the language model that an SAE names is on this machine."""
    from huggingface_hub import try_to_load_from_cache

    from hsae_hub.artifact import read_config
    from hsae_hub.assets import EMBEDDED_MODEL

    model = read_config(verified.folder).model
    if model is None:
        return False
    if model.id == EMBEDDED_MODEL or Path(model.id).is_dir():
        return True
    if model.id.count("/") != 1:
        return False
    found = try_to_load_from_cache(model.id, "config.json", revision=model.revision)
    return isinstance(found, str) and any(Path(found).parent.glob("*.safetensors"))


def _why_not(verified: Verified) -> str:
    from hsae_hub.artifact import read_config

    model = read_config(verified.folder).model
    if model is None:
        return "its config names no language model; --model does"
    return f"{model.id} is not on this machine; --model {model.id} fetches it"


def _measured(
    ref: str,
    hub: str | None,
    files: list[str] | None,
    tokens: int,
    model: str | None,
    device: str | None,
    out: Output,
) -> CoreReport:
    from hsae_hub.evaluation import evaluate

    found = find(ref, hub, out)
    on = measuring(found, files)
    with out.bars() as bars:
        return evaluate(
            found.sae,
            on.data,
            model=model,
            tokens=tokens,
            seed=on.seed,
            device=device,
            on_progress=bars.update,
        )


def _verified_text(verified: Verified) -> str:
    words = {True: "ok", False: "WRONG", None: "-"}
    rows = [(check.name, words[check.passed], check.told) for check in verified.checks]
    return table(("", "", ""), rows).lstrip("\n")


def _removal_text(removal: Removal) -> str:
    commits = ", ".join(commit[:SHORT] for commit in removal.commits)
    count = f"{len(removal.files)} files, {len(removal.contents)} contents"
    return pairs([("sae", f"{removal.ref} at {commits}"), ("removes", count)])
