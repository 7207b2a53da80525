"""A training run from its recipe to its folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hsae_hub import __version__
from hsae_hub.activations import (
    ActivationStream,
    Batches,
    CachedStream,
    RowStream,
    check_cache,
)
from hsae_hub.architectures import SAE, architecture, build
from hsae_hub.artifact import (
    LatentTable,
    TrainingConfig,
    read_artifact,
    save_sae,
    write_atomic,
)
from hsae_hub.errors import InterruptedRun, UsageError
from hsae_hub.lock import only_one_in
from hsae_hub.models import Hookpoint, load_language_model, pick_device
from hsae_hub.ops import collective
from hsae_hub.recipes import LoadedRecipe, Recipe
from hsae_hub.signals import StopSignals
from hsae_hub.training.checkpoints import latest_checkpoint, save_checkpoint
from hsae_hub.training.distributed import command, joined, largest, leads, together
from hsae_hub.training.events import Event, OnEvent
from hsae_hub.training.folder import (
    CHECKPOINTS,
    METRICS,
    RESOLVED,
    SUMMARY,
    check_folder,
    cut_metrics,
    metrics_line,
    open_folder,
    read_json,
    write_environment,
)
from hsae_hub.training.loggers import Write, check_loggers, open_loggers
from hsae_hub.training.memory import kept_memory
from hsae_hub.training.sharding import gather_
from hsae_hub.training.stats import latent_tables
from hsae_hub.training.trainer import Trainer

_log = logging.getLogger(__name__)
_MUCH = 0.05
"""Share of the time that activations may be waited for before somebody should hear of it."""


class TrainResult(NamedTuple):
    """A finished run."""

    folder: Path
    sae: SAE[Any]
    """Loaded from the folder."""
    beside: dict[str, SAE[Any]]
    """The others of the run, by name: its `baseline` and those of `also`."""
    steps: int
    tokens: int
    """Activations trained on, repeats counted."""
    seconds: float
    """Time spent training, reading activations included."""
    wait_seconds: float
    """The part of it in which the next activations were not there yet."""
    resumed_from: int | None
    """Step of the checkpoint that this call went on from; None for a run that began anew."""


def train(
    loaded: LoadedRecipe,
    out: str | Path,
    *,
    resume: Literal["auto", "never"] = "auto",
    device: str | None = None,
    shard: bool = False,
    log: Sequence[str] = (),
    on_event: OnEvent | None = None,
) -> TrainResult:
    """Trains a recipe's SAE into a folder, and its other ones, on the same batches, into folders in it.

    `auto` goes on from the folder's last whole checkpoint, if it has one; with as many threads on the same machine it
    ends with the same weights as a run that was never stopped, bit for bit. A finished run is only read, and keeps no
    checkpoint. The first Ctrl-C or SIGTERM lets the step end and saves.

    The processes that torchrun starts, each calling it, train as one: on the batches that one process would have, each
    on its part of them, and with `shard` with its part of the weights and moments (FSDP2). The first one writes the
    folder, which all have to see, and hears of events. Any number of processes goes on where others stopped.

    Raises:
        UsageError: the folder holds something else or another recipe's run, the text is too little, the store of
            `data.cache` holds something else, or an architecture cannot be sharded.
        ConflictError: another run is training into the folder.
        ResourceError: a logger's package is not installed.
        MisfitError: the SAE's width is not the model's, or there is no such place in the model.
        CorruptError: the text is not the one that the run began with.
        DivergedError: a loss, gradient or weight is not finite; the last good checkpoint stays.
        InterruptedRun: a signal came; its `fix` is the command that resumes.
        StoppedElsewhere: another process failed.
    """
    out = Path(out)
    check_loggers(log)
    if shard:
        _refuse_unsharded(loaded.recipe)
    with joined(device) as own:
        run = _Run(loaded, out, on_event if on_event and leads() else (lambda event: None))
        with together():
            if leads():
                check_folder(out, loaded, resume)
        if largest((out / SUMMARY).is_file()):
            run.say(0, "this run is finished already")
            return run.result(None, own)
        with ExitStack() as stack, StopSignals() as stop:
            with together():
                check_cache(loaded.recipe)
                if leads():
                    run.begin(stack, resume, log)
            stop.at_once = lambda number: run.interrupted(number, "before its first step")
            trainer, resumed_from = run.prepare(stack, own, shard)
            stop.at_once = None
            if trainer.stream.device.type == "cpu":
                stack.enter_context(kept_memory())
            run.loop(trainer, stop)
            stop.at_once = lambda number: run.interrupted(number, "after its last step")
            run.finish(trainer)
        result = run.result(resumed_from, own)
        run.say(result.steps, run.waiting(result))
        return result


def _refuse_unsharded(recipe: Recipe) -> None:
    names = {config.architecture for config in recipe.saes().values()}
    if whole := sorted(name for name in names if not architecture(name).can_shard):
        raise UsageError(
            f"{', '.join(whole)} cannot be sharded",
            why="it exchanges latents while it trains",
            fix="the same command without --shard: each process holds all of it",
        )


class _Run:
    def __init__(self, loaded: LoadedRecipe, out: Path, tell: OnEvent) -> None:
        self.recipe: Recipe = loaded.recipe
        self.loaded = loaded
        self.out = out
        self.tell = tell
        self.environment: dict[str, Any] = {}
        self.log: Write = lambda line: None

    def say(self, step: int, message: str) -> None:
        _log.info(message)
        self.tell(Event("train", step, self.recipe.train.n_steps, message=message))

    def interrupted(self, number: int, where: str) -> InterruptedRun:
        return InterruptedRun(
            f"stopped by {signal.Signals(number).name} {where}",
            signal=number,
            fix=f"{command()} --resume {self.out}",
        )

    def begin(self, stack: ExitStack, resume: Literal["auto", "never"], log: Sequence[str]) -> None:
        """Holds the folder, says in it what is run, and opens loggers; `stack` undoes it."""
        stack.enter_context(only_one_in(self.out, "training into"))
        check_folder(self.out, self.loaded, resume)  # again: somebody may have been faster
        open_folder(self.out, self.loaded)
        self.log = stack.enter_context(open_loggers(log, self.out, self.recipe))

    def prepare(
        self, stack: ExitStack, device: str | None, shard: bool
    ) -> tuple[Trainer, int | None]:
        """The trainer, ready for its next step; `stack` ends the threads of its stream."""
        recipe = self.recipe
        with together():
            stream, built = self._load(device)
            stack.callback(stream.close)
            if leads():
                self.environment = write_environment(self.out, self.loaded, stream.device)
        start = f"{command()} {self.out / RESOLVED}"
        trainer = Trainer(built, stream, recipe.train, command=start, shard=shard)
        resumed_from = self._restore(trainer)
        trainer.fill()
        return trainer, resumed_from

    def _load(self, device: str | None) -> tuple[Batches, dict[str, SAE[Any]]]:
        recipe = self.recipe
        stream = self._stream(device)
        recipe.check_width(stream.d_in)
        world = collective.part().world
        parts = world * recipe.train.accumulate
        if recipe.train.batch_size < parts:
            raise UsageError(
                f"train.batch_size (={recipe.train.batch_size}) must be at least the number of "
                f"processes times train.accumulate (={parts})"
            )
        built = {
            name: build(config, seed=recipe.seed_for("init")).to(stream.device, _dtype(recipe))
            for name, config in recipe.saes().items()
        }
        return stream, built

    def _stream(self, device: str | None) -> Batches:
        recipe = self.recipe
        model = recipe.model
        if recipe.data.cache is not None:
            return CachedStream(
                Path(recipe.data.cache).expanduser(),
                batch_size=recipe.train.batch_size,
                seed=recipe.seed_for("data"),
                device=pick_device(device),
            )
        kind = RowStream if recipe.data.vocabulary else ActivationStream
        return kind(
            load_language_model(
                model.id, revision=model.revision, dtype=model.dtype, device=device
            ),
            Hookpoint.parse(recipe.hookpoint),
            recipe.data,
            batch_size=recipe.train.batch_size,
            seed=recipe.seed_for("data"),
            sample_seed=recipe.seed_for("sample"),
            on_progress=lambda phase, done, total: self.tell(Event(phase, done, total)),
        )

    def _restore(self, trainer: Trainer) -> int | None:
        folder = self.out / CHECKPOINTS
        with together():
            checkpoint, skipped = latest_checkpoint(folder)
            for message in skipped:
                self.say(0, message)
            if leads():
                cut_metrics(self.out / METRICS, checkpoint.step if checkpoint else 0)
        if not collective.is_alike(checkpoint.step if checkpoint else None):
            raise UsageError(
                f"the processes do not find the same checkpoints in {self.out}",
                fix="--out on a disk that all machines share",
            )
        if checkpoint is None:
            return None
        trainer.restore(checkpoint, folder / f"{checkpoint.step:08d}")
        self.say(checkpoint.step, f"resumed from step {checkpoint.step}")
        return checkpoint.step

    def loop(self, trainer: Trainer, stop: StopSignals) -> None:
        n_steps = self.recipe.train.n_steps
        path = self.out / METRICS if leads() else Path(os.devnull)
        with path.open("a", encoding="utf-8", buffering=1) as metrics:
            while not trainer.done:
                line = trainer.advance()
                if line is not None:
                    metrics.write(json.dumps(line) + "\n")
                    self.log(line)
                self.tell(Event("train", trainer.step, n_steps, line))
                due = trainer.step % self.recipe.train.checkpoint_every == 0
                signalled = largest(stop.received or 0)
                if due or trainer.done or signalled:
                    self._save(trainer)
                if signalled:
                    raise self.interrupted(
                        signalled, f"after step {trainer.step} of {n_steps}, which is saved"
                    )

    def _save(self, trainer: Trainer) -> None:
        started = time.perf_counter()
        checkpoint = trainer.checkpoint()
        with together():
            if leads():
                trainer.saved = save_checkpoint(self.out / CHECKPOINTS, checkpoint)
        _log.info("saved %s in %.1f s", trainer.saved, time.perf_counter() - started)

    def finish(self, trainer: Trainer) -> None:
        tokens = trainer.stream.tokens
        saes = {member.name: member.sae for member in trainer.members}
        for sae in saes.values():
            gather_(sae)
        tables = latent_tables(
            saes,
            trainer.stream,
            self.recipe.eval.tokens,
            on_progress=lambda done, total: self.tell(Event("stats", done, total)),
        )
        with together():
            if leads():
                self._write(trainer, tables, tokens)

    def _write(self, trainer: Trainer, tables: dict[str, LatentTable], tokens: int) -> None:
        recipe, stream = self.recipe, trainer.stream
        saes = {member.name: member.sae for member in trainer.members}
        for name in reversed(saes):  # the main SAE names its baseline, so it comes last
            save_sae(
                saes[name],
                self._folder(name),
                model=stream.origin.model,
                hookpoint=stream.origin.hookpoint,
                tokens=stream.origin.tokens,
                vocabulary=stream.origin.vocabulary,
                training=TrainingConfig(
                    recipe=self.environment["recipe"],
                    seed=recipe.seed,
                    steps=trainer.step,
                    tokens=tokens,
                    data=stream.origin.data,
                    written_by=f"hsae-hub {__version__}",
                ),
                baseline="baseline" if name == "sae" and recipe.baseline else None,
                stats=tables[name],
            )
        final = metrics_line(self.out / METRICS, -1)
        summary = {
            "recipe": self.environment["recipe"],
            "steps": trainer.step,
            "tokens": tokens,
            "seconds": round(trainer.seconds, 1),
            "wait_seconds": final["wait_seconds"],
            "tokens_per_second": round(tokens / trainer.seconds),
            "device": self.environment["device"],
            "last_batch": {name: final.get(name) for name in saes},
        }
        write_atomic(self.out / SUMMARY, json.dumps(summary, indent=2) + "\n")

    def result(self, resumed_from: int | None, device: str | None) -> TrainResult:
        if leads():
            shutil.rmtree(self.out / CHECKPOINTS, ignore_errors=True)  # a finished run is only read
        summary = read_json(self.out / SUMMARY)
        read = {
            name: read_artifact(self._folder(name), device=device or "cpu").sae
            for name in self.recipe.saes()
        }
        return TrainResult(
            self.out,
            read.pop("sae"),
            read,
            summary["steps"],
            summary["tokens"],
            summary["seconds"],
            summary["wait_seconds"],
            resumed_from,
        )

    def waiting(self, result: TrainResult) -> str:
        """How long the first activations took, and how long those of later steps were waited for."""
        before = metrics_line(self.out / METRICS, 0)["wait_seconds"]
        waited, seconds = result.wait_seconds - before, result.seconds - before
        share = waited / max(seconds, 1e-9)
        first = f"the first activations took {before:.1f} s"
        said = f"{first}; then waited {waited:.1f} s for more, {share:.1%} of {seconds:.0f} s"
        if share < _MUCH or self.recipe.data.cache is not None:
            return said
        return f"{said} (hsae cache make reads them once, for any number of runs)"

    def _folder(self, name: str) -> Path:
        return self.out if name == "sae" else self.out / name


def _dtype(recipe: Recipe) -> Any:
    import torch

    return getattr(torch, recipe.train.dtype)
