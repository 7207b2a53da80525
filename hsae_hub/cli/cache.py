"""`hsae cache`: harvest activations to disk once, and look at what is stored."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hsae_hub.cli.common import Device, Json, NoProgress, Output, Quiet, pairs, size_text
from hsae_hub.cli.recipes import Overrides, RecipeRef

if TYPE_CHECKING:
    from hsae_hub.activations import StoreConfig

app = typer.Typer(help="Harvest activations to disk once, and look at what is stored.")

_LABELS = {
    "sample": "writing text",
    "count": "counting, of as many as fit",
    "harvest": "reading activations",
    "shuffle": "shuffling into shards",
}


@app.command()
def make(
    recipe: RecipeRef,
    out: Annotated[Path, typer.Option("--out", help="Folder of the store.", metavar="DIR")],
    tokens: Annotated[
        int | None,
        typer.Option(min=1, help="So many activations; all of the data once without it."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Type on disk; the one that the language model runs in without it."),
    ] = None,
    shard_tokens: Annotated[
        int | None, typer.Option(min=1, help="Activations of a shard; about 1 GB without it.")
    ] = None,
    overrides: Overrides = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="FILE", help="Read these files or globs; repeatable."),
    ] = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Store the activations that a recipe would train on, shuffled, without the text that it holds out.

    After Ctrl-C or a kill the same command goes on. Without --tokens the text is read once more, before, to count.

    \b
    Examples:
      hsae cache make gemma2-tiny-en/l3_hsae --out stores/tiny
      hsae cache make gemma-2-2b/l20_hsae-16kx16 --tokens 1000000000 --device cuda --out /data/l20
      hsae train gemma2-tiny-en/l3_hsae --cache stores/tiny
    """
    from hsae_hub.activations import harvest
    from hsae_hub.cli.train import text_source
    from hsae_hub.recipes import load_recipe

    output = Output("cache_make", json=json, quiet=quiet, no_progress=no_progress)
    changes = [*(overrides or ()), *(text_source(text) if text else ())]
    loaded = load_recipe(recipe, overrides=changes)
    options = {
        "--tokens": tokens,
        "--dtype": dtype,
        "--shard-tokens": shard_tokens,
        "--device": device,
    }
    words = ["hsae", "cache", "make", recipe, "--out", str(out)]
    words += [word for key, value in options.items() if value for word in (key, str(value))]
    words += [word for change in overrides or () for word in ("--set", change)]
    words += [word for pattern in text or () for word in ("--text", pattern)]
    with output.bars() as bars:
        made = harvest(
            loaded.recipe,
            out,
            tokens=tokens,
            dtype=dtype,
            shard_tokens=shard_tokens,
            device=device,
            command=shlex.join(words),
            on_progress=lambda phase, done, total: bars.update(_LABELS[phase], done, total),
        )
    data = {"folder": str(out), "resumed_from": made.resumed_from, **_data(made.config)}
    output.result(data, _text(out, made.config), str(out))


@app.command()
def info(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a store.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every byte with the hashes that were kept.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Tell size and statistics of a store.

    \b
    Examples:
      hsae cache info stores/tiny
      hsae cache info stores/tiny --verify
    """
    from hsae_hub.activations import open_store, verify_store

    output = Output("cache_info", json=json, quiet=quiet, no_progress=no_progress)
    config = open_store(folder).config
    if verify:
        with output.bars() as bars:
            verify_store(folder, on_bytes=bars.of_bytes("checking"))
    data = {"folder": str(folder), "verified": verify, **_data(config)}
    checked = "\n\nevery byte is the one that was written" if verify else ""
    output.result(data, _text(folder, config) + checked, str(config.activations))


def _data(config: StoreConfig) -> dict[str, object]:
    return {
        "bytes": config.size,
        "fingerprint": config.fingerprint,
        **config.model_dump(mode="json"),
    }


def _text(folder: Path, config: StoreConfig) -> str:
    plan, norms = config.plan, config.statistics
    less = plan.tokens is not None and config.activations < plan.tokens
    asked = f", all there are of the {plan.tokens:,} asked for" if less else ""
    shards = f"{len(config.shards):,} shard{'s' * (len(config.shards) > 1)}"
    heldout = plan.data.heldout_fraction
    quantiles = norms.norm_quantiles
    rows = [
        ("store", str(folder)),
        ("model", f"{config.model.id}, {config.model.dtype}, {config.hookpoint.path}"),
        ("text", "; ".join(source.describe() for source in plan.data.train)),
        ("held out", f"{heldout:.1%} of its documents" if heldout else "nothing"),
        ("activations", f"{config.activations:,} of width {config.d_in:,}{asked}"),
        ("on disk", f"{size_text(config.size)}, {plan.dtype}, {shards}"),
        ("contexts", f"{config.contexts:,} of at most {config.tokens.context_length:,} tokens"),
        ("left out", f"{config.special_dropped:,} activations of special tokens"),
        ("norm", f"mean {norms.norm_mean:.4g}, standard deviation {norms.norm_std:.4g}"),
        ("", f"{norms.norm_min:.4g} to {norms.norm_max:.4g}"),
        ("quantiles", ", ".join(f"{float(q):.1%} {v:.4g}" for q, v in quantiles.items())),
        (
            "outliers",
            f"{norms.outliers:,} with a norm of at least {norms.outlier_above:.4g}, 6 x the median; they are kept",
        ),
    ]
    return pairs(rows)
