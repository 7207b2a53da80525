"""`hsae steer`: text with features pushed, held, swapped or taken out, beside the same text without."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsae_hub.cli.common import Bars, Device, HubOption, Json, NoProgress, Output, Quiet, Ref, table
from hsae_hub.cli.loading import Model, find, read_file, read_text
from hsae_hub.errors import UsageError

if TYPE_CHECKING:
    from hsae_hub.attach import Attached, Beside, BesideStep, Feature, SteeringSpec
    from hsae_hub.attach.beside import Steered

STRONGEST = "strongest"
"""Name of the parent that acts most on the last token of the prompt, one that acts everywhere counting little."""


def steer(
    ref: Ref,
    prompt: Annotated[
        str | None,
        typer.Argument(help="A text to continue; - reads it from stdin.", show_default=False),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Read the text from a file.")] = None,
    edit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FEATURE=STRENGTH",
            help="Push a feature by multiples of its own strong act, such as 4121/3=+1.5; =0 takes it out. "
            f"'{STRONGEST}' is the parent that tells most of the prompt's last token: act times -log(density). "
            "Repeatable.",
        ),
    ] = None,
    spec: Annotated[
        Path | None, typer.Option(help="Take the edits from a steering spec, YAML or JSON.")
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            help="full: a child with its parent; relative: a child alone; set: hold the act; scale, ablate, "
            "project_out, swap:4121/7. For every --edit."
        ),
    ] = "full",
    gate: Annotated[
        list[str] | None,
        typer.Option(
            help="Edit only where the parent fires (parent) or the feature (feature), prompt or generated tokens, "
            "after:WORDS, positions:0,5,-1. For every --edit; those of several must all hold."
        ),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Strengths of every --edit are acts, not multiples of one."),
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="Write the edits to a steering spec, YAML or JSON.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="0,1,2", help="Try every strength times each of these numbers."),
    ] = None,
    interactive: Annotated[
        bool,
        typer.Option(
            "--interactive",
            help="Read lines: a text is continued; /edit FEATURE=STRENGTH, /clear, /save FILE and /quit.",
        ),
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write.")] = 50,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of all texts, above temperature 0.")] = 0,
    model: Model = None,
    device: Device = None,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Continue a prompt with features pushed, beside it without.

    KL says how far each token's distribution is from that of the model as it is, loss how unlikely the steered text is
    to it, both in nats a token.

    \b
    Examples:
      hsae steer org/name 'My favourite dog is' --edit '4121/3=+1.5' --gate generated --save corgi.yaml
      hsae steer org/name 'My favourite dog is' --edit 4121=0 --edit '588=-2' --temperature 0.8
      hsae steer org/name 'My favourite dog is' --spec corgi.yaml --sweep 0,1,2
    """
    out = Output("steer", json=json, quiet=quiet, no_progress=no_progress)
    words = _words(prompt, file, interactive)
    factors = None if sweep is None else _factors(sweep)
    if interactive and factors is not None:
        raise UsageError("--sweep writes one table; leave --interactive out")
    found = find(ref, hub, out)

    from hsae_hub.attach import attach, parse_edits, read_steering, write_steering
    from hsae_hub.attach.beside import gather

    lm = attach(found.sae, model, device=device)
    given = [] if edit is None else [_named(lm, words, each) for each in edit]
    edits = list(read_steering(spec).edits) if spec is not None else []
    if given or (not edits and not interactive):
        edits += parse_edits(
            given, mode=mode, units="raw" if raw else "p999", gate=gate or "always"
        ).edits
    if interactive:
        from hsae_hub.cli.interactive import talk

        talk(lm, edits, words, out, max_new_tokens, temperature, seed)
        return
    whole = parse_edits(edits).model_copy(update={"sae": ref})
    if save is not None:
        write_steering(whole, save)
    ways = [whole] if factors is None else [whole.scaled(factor) for factor in factors]
    stream = lm.stream_beside(
        words, ways, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )
    with out.bars() as bars, stream:
        beside = gather(_shown(stream, bars, max_new_tokens), len(ways))
    data = _data(words, whole, beside, factors)
    text = _texts(words, whole, beside) if factors is None else _table(words, beside, factors)
    values = [one.text for one in beside.steered]
    out.result({"ref": {"ref": ref, "revision": found.revision}, **data}, text, "\n".join(values))


def _words(prompt: str | None, file: Path | None, interactive: bool) -> str:
    if prompt is not None and file is not None:
        raise UsageError("give a prompt or --file, not both", fix="hsae steer -h")
    if interactive and prompt == "-":
        raise UsageError("--interactive reads stdin itself; leave - out")
    if file is not None:
        return read_file(file)
    if prompt is None and not interactive:
        raise UsageError("give a prompt or --file, one of them", fix="hsae steer -h")
    return read_text(prompt or "")


def _shown(steps: Iterable[BesideStep], bars: Bars, total: int) -> Iterator[BesideStep]:
    for number, step in enumerate(steps, 1):
        bars.update("writing", number, total)
        yield step


def _factors(sweep: str) -> list[float]:
    try:
        factors = [float(number) for number in sweep.split(",")]
    except ValueError:
        factors = [math.nan]
    if not all(map(math.isfinite, factors)):
        raise UsageError(f"--sweep takes numbers, got {sweep!r}", fix="--sweep 0,0.5,1,2")
    return factors


def _named(lm: Attached, prompt: str, edit: str) -> str:
    name, equals, strength = edit.partition("=")
    if name.strip() != STRONGEST:
        return edit
    features = lm.decompose(prompt).tokens[-1].features
    if not features:
        raise UsageError(f"no feature acts on the last token of {prompt!r}")
    stats = lm.sae.info.stats
    if stats is None:
        return f"{features[0].id}{equals}{strength}"

    def surprise(feature: Feature) -> float:
        density = float(stats.density[lm.sae.shape.index_of(feature.id)])
        return -feature.act * log(max(density, 1 / max(stats.tokens, 1)))

    return f"{max(features, key=surprise).id}{equals}{strength}"


def _data(
    words: str, spec: SteeringSpec, beside: Beside, factors: list[float] | None
) -> dict[str, Any]:
    from hsae_hub.attach.steering_file import steering_data

    data = beside.to_dict()
    one = {"prompt": words, "edits": steering_data(spec)["edits"], "unsteered": data["unsteered"]}
    if factors is None:
        (steered,) = data["steered"]
        return {**one, "steered": steered.pop("text"), **steered}
    rows = zip(factors, data["steered"], strict=True)
    return {**one, "sweep": [{"times": factor, **steered} for factor, steered in rows]}


def _texts(words: str, spec: SteeringSpec, beside: Beside) -> str:
    (steered,) = beside.steered
    told = ", ".join(str(edit) for edit in spec.edits)
    numbers = f"KL {steered.mean_kl:.3f} and loss {steered.mean_loss:.3f} nats a token"
    return (
        f"as it is:\n{words}{beside.unsteered}\n\nwith {told}:\n{words}{steered.text}\n\n"
        f"{numbers}, by the model as it is"
    )


def _table(words: str, beside: Beside, factors: list[float]) -> str:
    def row(factor: float, one: Steered) -> tuple[str, ...]:
        return f"{factor:g}", f"{one.mean_kl:.3f}", f"{one.mean_loss:.3f}", repr(one.text)

    rows = [row(*pair) for pair in zip(factors, beside.steered, strict=True)]
    head = ("times", "KL", "loss", "text")
    return f"{words}\n\n{table(head, rows)}"
