"""Harvests the activations of a recipe's data once into a store: shuffled as a whole, and after a kill it goes on.

First the language model is read and every row goes to a random one of many files (`buckets`). Then these become shards,
one after the other, each shuffled in memory. What is done so far lies in a hidden folder of the store's.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple
from zlib import crc32

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.activations.batches import StreamState
from hsae_hub.activations.buckets import Buckets
from hsae_hub.activations.harvest_folder import (
    HarvestState,
    begin,
    check_folder,
    clean,
    load_text,
    refuse_other,
    remove_torn,
    save_state,
    save_text,
)
from hsae_hub.activations.mapping import Rows
from hsae_hub.activations.reading import batch_contexts, read_batch
from hsae_hub.activations.shards import write_shard
from hsae_hub.activations.statistics import RowStatistics
from hsae_hub.activations.store import (
    STORE,
    WORK,
    Plan,
    StoreConfig,
    StoreDtype,
    read_store,
    shard_name,
)
from hsae_hub.activations.stream import origin_of
from hsae_hub.activations.windows import WindowStream
from hsae_hub.artifact import flush, write_atomic
from hsae_hub.errors import CorruptError, InterruptedRun, MisfitError, ResourceError, UsageError
from hsae_hub.lock import only_one_in
from hsae_hub.models import Hookpoint, LanguageModel, load_language_model
from hsae_hub.recipes import Recipe, differing, keys_of
from hsae_hub.signals import StopSignals

COMMIT_SECONDS = 60.0
"""Time between the moments from which a killed harvest goes on."""
SHARD_BYTES = 1 << 30
"""About the size of a shard; twice as much memory is taken while it is shuffled."""

HarvestPhase = Literal["sample", "count", "harvest", "shuffle"]
OnHarvest = Callable[[HarvestPhase, int, int], None]
"""Told what is being done, how much of it is done, and of how much: tokens, and shards for `shuffle`. For `count` the
whole is what the disk has room for."""


class Harvested(NamedTuple):
    """A store that is whole."""

    folder: Path
    config: StoreConfig
    resumed_from: int | None
    """Activations that an earlier call had kept; None where there was none."""


def harvest(
    recipe: Recipe,
    out: str | Path,
    *,
    tokens: int | None = None,
    dtype: StoreDtype | None = None,
    shard_tokens: int | None = None,
    device: str | None = None,
    command: str = "",
    on_progress: OnHarvest | None = None,
) -> Harvested:
    """Stores `tokens` activations of a recipe's training data, or all of them once; its held-out part is left out.

    Rows are stored in `dtype`, by default the one that the language model runs in, which loses nothing. A harvest that
    was stopped goes on, and ends with the same bytes as one that was not, on the same machine with as many threads.
    A finished store is only read. `command` is what an interrupted one names as the way to go on.

    Raises:
        UsageError: the folder holds something else, or the recipe has no text.
        ConflictError: another process harvests into the folder.
        MisfitError: the SAE's width is not the model's, or there is no such place in the model.
        ResourceError: the disk has no room for it.
        CorruptError: an activation is not finite, or text, model or files are not what they were.
        InterruptedRun: a signal came; what was read is kept.
    """
    out = Path(out)
    plan = Plan.of(recipe, tokens=tokens, dtype=dtype, shard_tokens=shard_tokens)
    if (store := _finished(out, plan)) is not None:
        return Harvested(out, store, None)
    check_folder(out, plan)
    run = _Harvest(recipe, plan, out, command, on_progress or (lambda phase, done, total: None))
    with only_one_in(out, "harvesting into", where=out / WORK), StopSignals() as stop:
        if (store := _finished(out, plan)) is not None:  # somebody was faster
            return Harvested(out, store, None)
        stop.at_once = lambda number: run.interrupted(number, "before it began to read")
        resumed_from = run.prepare(check_folder(out, plan), device)
        stop.at_once = None
        run.read(stop)
        run.shuffle(stop)
        store = run.finish()
    return Harvested(out, store, resumed_from)


def _finished(out: Path, plan: Plan) -> StoreConfig | None:
    if not (out / STORE).is_file():
        return None
    store = read_store(out)
    refuse_other(out, store.plan, plan)
    clean(out)
    return store


def _count(
    windows: WindowStream, lm: LanguageModel, recipe: Recipe, room: int, tell: OnHarvest
) -> int:
    """Activations that one epoch gives, without reading any; stops where there are more than `room`."""
    counted = 0
    while counted <= room:
        contexts = windows.take(recipe.data.batch_contexts)
        if not contexts:
            break
        counted += int(batch_contexts(contexts, lm, recipe.data).kept.sum())
        tell("count", min(counted, room), room)
    return counted


def _check_room(out: Path, state: HarvestState, row_bytes: int) -> None:
    missing = 0 if state.harvested else state.planned - state.done
    beside = min(state.planned, state.shard_tokens)  # a bucket and the shard that it becomes
    needed, free = (missing + beside) * row_bytes, shutil.disk_usage(out).free
    if needed > free:
        more = " or more" if state.plan.tokens is None else ""  # counting stopped there
        raise ResourceError(
            f"{missing:,} activations{more} need {needed / 1e9:,.4g} GB on the disk of {out}, "
            f"where {free / 1e9:,.4g} GB are free",
            fix="fewer --tokens\n--dtype bfloat16 takes half of float32\nor --out on another disk",
        )


class _Harvest:
    def __init__(
        self, recipe: Recipe, plan: Plan, out: Path, command: str, tell: OnHarvest
    ) -> None:
        self.recipe = recipe
        self.plan = plan
        self.out = out
        self.command = command
        self.tell = tell
        self.dtype: torch.dtype = getattr(torch, plan.dtype)
        self.seed = recipe.seed_for("data")

    def interrupted(self, number: int, where: str) -> InterruptedRun:
        return InterruptedRun(
            f"stopped by {signal.Signals(number).name} {where}", signal=number, fix=self.command
        )

    def prepare(self, state: HarvestState | None, device: str | None) -> int | None:
        """Loads what is needed for the next activation, and settles how many there will be."""
        if state is None:
            begin(self.out)
        remove_torn(self.out)
        if state is not None and state.harvested:
            self._go_on(state)
            return state.done
        model = self.recipe.model
        self.lm = load_language_model(
            model.id, revision=model.revision, dtype=model.dtype, device=device
        )
        self.hookpoint = Hookpoint.parse(self.recipe.hookpoint)
        self.windows = WindowStream(
            self.recipe.data,
            self.lm,
            seed=self.seed,
            sample_seed=self.recipe.seed_for("sample"),
            on_progress=lambda _, done, total: self.tell("sample", done, total),
        )
        if state is None:
            self._go_on(self._begin())
            self._commit()
            return None
        self._check_origin(state)
        self.windows.load_state_dict(StreamState(state.windows, load_text(self.out)))
        self._go_on(state)
        return state.done

    def _begin(self) -> HarvestState:
        width = self.hookpoint.width(self.lm)
        self.recipe.check_width(width)
        origin = origin_of(self.lm, self.hookpoint, self.recipe.data)
        row_bytes = width * self.dtype.itemsize
        shard_tokens = self.plan.shard_tokens or max(1, SHARD_BYTES // row_bytes)
        self.windows.open()
        start = self.windows.state_dict()
        save_text(self.out, start.tensors)
        planned = self.plan.tokens
        if planned is None:
            room = shutil.disk_usage(self.out).free // row_bytes
            planned = _count(self.windows, self.lm, self.recipe, room, self.tell)
            self.windows.load_state_dict(start)
        assert origin.tokens is not None  # as of all activations of text
        return HarvestState(
            plan=self.plan,
            model=origin.model,
            hookpoint=origin.hookpoint,
            tokens=origin.tokens,
            d_in=width,
            planned=planned,
            shard_tokens=shard_tokens,
            buckets=[0] * -(-planned // shard_tokens),
            windows=start.values,
        )

    def _check_origin(self, state: HarvestState) -> None:
        now = origin_of(self.lm, self.hookpoint, self.recipe.data)
        if (now.model, now.hookpoint, now.tokens) != (state.model, state.hookpoint, state.tokens):
            found = differing(state.model.model_dump(), now.model.model_dump(), where="", here="")
            raise MisfitError(
                f"{self.lm.id} is not the model that this harvest began with",
                why=f"they differ in {keys_of(found) or 'its layers or special tokens'}",
                fix="harvest into another folder",
            )

    def _go_on(self, state: HarvestState) -> None:
        row_bytes = state.d_in * self.dtype.itemsize
        _check_room(self.out, state, row_bytes)
        self.state = state
        self.statistics = RowStatistics(state.d_in)
        if state.statistics:
            self.statistics.load_state_dict(state.statistics)
        self.buckets = Buckets(self.out / WORK, len(state.buckets), row_bytes, seed=self.seed)
        if state.harvested:
            self.buckets.rows = state.buckets
        else:
            self.buckets.cut(state.buckets)

    def read(self, stop: StopSignals) -> None:
        """The first pass: from contexts to buckets."""
        state, data = self.state, self.recipe.data
        committed = time.monotonic()
        while not state.harvested:
            self.tell("harvest", state.done, state.planned)
            contexts = self.windows.take(data.batch_contexts) if state.done < state.planned else []
            if contexts:
                batch = batch_contexts(contexts, self.lm, data)
                rows = read_batch(self.lm, self.hookpoint, batch)[: state.planned - state.done]
                self.buckets.add(self._stored(rows))
                state.done += len(rows)
                state.contexts += len(contexts)
                state.special_dropped += int(batch.mask.sum() - batch.kept.sum())
            elif state.done == 0:
                raise UsageError("there is no text to harvest", why="every source is empty")
            else:
                state.harvested = True
                self.tell("harvest", state.done, state.done)
            stopped = stop.received
            if state.harvested or stopped or time.monotonic() - committed >= COMMIT_SECONDS:
                state.windows = self.windows.state_dict().values
                self._commit()
                committed = time.monotonic()
            if stopped is not None:
                raise self.interrupted(
                    stopped,
                    f"after {state.done:,} of {state.planned:,} activations, which are kept",
                )

    def shuffle(self, stop: StopSignals) -> None:
        """The second pass: from buckets to shards. A bucket goes once its shard is whole and known."""
        state = self.state
        # as many as buckets, but fewer where the text gave less than was asked for
        n_shards = -(-state.done // state.shard_tokens)
        groups: list[list[int]] = [[] for _ in range(n_shards)]
        for bucket in range(len(state.buckets)):
            groups[bucket * n_shards // len(state.buckets)].append(bucket)
        for number, group in enumerate(groups):
            if number >= state.groups:
                self._make_shard(self.buckets.read(group))
                state.groups = number + 1
                self._commit()
            self.buckets.remove(group)
            self.tell("shuffle", number + 1, n_shards)
            if stop.received is not None and number + 1 < n_shards:
                raise self.interrupted(
                    stop.received, f"after shard {number + 1} of {n_shards}, which is kept"
                )

    def finish(self) -> StoreConfig:
        """Writes what makes the folder a store."""
        state = self.state
        store = StoreConfig(
            plan=self.plan,
            model=state.model,
            hookpoint=state.hookpoint,
            tokens=state.tokens,
            d_in=state.d_in,
            activations=state.done,
            contexts=state.contexts,
            special_dropped=state.special_dropped,
            shards=state.shards,
            statistics=self.statistics.result(),
        )
        write_atomic(self.out / STORE, store.to_json())
        flush(self.out)
        clean(self.out)
        return store

    def _make_shard(self, raw: Rows) -> None:
        if not len(raw):
            return
        number = len(self.state.shards)
        generator = torch.Generator().manual_seed(crc32(f"{self.seed}/shard/{number}".encode()))
        order = torch.randperm(len(raw), generator=generator)
        rows = torch.from_numpy(raw).view(self.dtype)[order]
        beside = self.out / WORK / shard_name(number)
        self.state.shards.append(write_shard(beside, rows))
        beside.replace(self.out / shard_name(number))
        flush(self.out)
        self.statistics.update(rows)

    def _stored(self, rows: Float[Tensor, "tokens d_in"]) -> Rows:
        """Rows as they are stored; each value has to be finite, before and afterwards."""
        kept = rows.to(self.dtype)
        if not bool(kept.isfinite().all()):
            bad = int((~rows.isfinite()).sum())
            if bad:
                raise CorruptError(
                    f"{bad} of {rows.numel()} values that were read are not finite",
                    why=f"the model runs in {self.recipe.model.dtype}",
                    fix="--set model.dtype=float32",
                )
            raise UsageError(
                f"an activation of {float(rows.abs().max()):,.0f} is too large for {self.plan.dtype}",
                fix="--dtype bfloat16",
            )
        found: Rows = kept.cpu().contiguous().view(torch.uint8).numpy()
        return found

    def _commit(self) -> None:
        """From here another call goes on."""
        self.buckets.commit()
        self.state.buckets = self.buckets.rows
        self.state.statistics = self.statistics.state_dict()
        save_state(self.out, self.state)
