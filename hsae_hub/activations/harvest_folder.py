"""The folder of a store that is being harvested: how far it is, and whether another call may go on in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from hsae_hub.activations.store import STATE, WORK, Plan, ShardInfo
from hsae_hub.artifact import HookpointConfig, ModelConfig, TokensConfig, flush, write_atomic
from hsae_hub.errors import CorruptError, UsageError
from hsae_hub.lock import LOCK
from hsae_hub.recipes import differing, keys_of

TEXT = "text.safetensors"
"""Text that the model wrote, so that it is not written again."""


class HarvestState(BaseModel):
    """Everything that the next activation, or the next shard, depends on, beside the rows themselves."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    plan: Plan
    model: ModelConfig
    hookpoint: HookpointConfig
    tokens: TokensConfig
    d_in: int
    planned: int
    """Activations that there will be, if the text gives as many."""
    shard_tokens: int
    buckets: list[int]
    """Rows in each bucket's file; more of them were not committed."""
    windows: dict[str, Any] = {}
    """Position in the text."""
    done: int = 0
    """Activations read."""
    contexts: int = 0
    special_dropped: int = 0
    harvested: bool = False
    """Whether all activations are in the buckets."""
    groups: int = 0
    """Groups of buckets that have become shards."""
    shards: list[ShardInfo] = []
    statistics: dict[str, Any] = {}


def check_folder(out: Path, plan: Plan) -> HarvestState | None:
    """How far the harvest of this plan is in a folder; None where it has not begun.

    Raises:
        UsageError: the folder holds something else.
        CorruptError: the state is damaged.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; a store needs a folder")
    if (out / WORK / STATE).is_file():
        state = load_state(out)
        refuse_other(out, state.plan, plan)
        return state
    if out.exists() and any(path.name != WORK for path in out.iterdir()):
        raise UsageError(f"{out} is not empty and holds no store", fix="give another --out")
    return None


def refuse_other(out: Path, before: Plan, now: Plan) -> None:
    """Makes sure that a folder's plan is the one that is asked for.

    Raises:
        UsageError: it is another one.
    """
    found = differing(
        before.model_dump(mode="json"), now.model_dump(mode="json"), where="there", here="now"
    )
    if found:
        raise UsageError(
            f"{out} holds another store; they differ in {keys_of(found)}",
            fix="give another --out, or go on as it was begun",
            problems=found,
        )


def save_state(out: Path, state: HarvestState) -> None:
    """Writes the state in one moment."""
    write_atomic(out / WORK / STATE, json.dumps(state.model_dump(mode="json")))
    flush(out / WORK)


def load_state(out: Path) -> HarvestState:
    """Reads the state.

    Raises:
        CorruptError: it is damaged.
    """
    path = out / WORK / STATE
    try:
        return HarvestState.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise CorruptError(
            f"{path} is damaged: {str(error).splitlines()[0]}", fix=f"remove {out} and start again"
        ) from None


def save_text(out: Path, tensors: dict[str, Tensor]) -> None:
    """Keeps the text that the model wrote."""
    from safetensors.torch import save_file

    write_atomic(out / WORK / TEXT, lambda beside: save_file(tensors, beside))


def load_text(out: Path) -> dict[str, Tensor]:
    """The text that the model wrote."""
    from safetensors.torch import load_file

    return load_file(out / WORK / TEXT)


def begin(out: Path) -> None:
    """Takes away what an earlier process left that was stopped before it kept anything."""
    for path in (out / WORK).iterdir():
        if path.name != LOCK:
            path.unlink()


def remove_torn(out: Path) -> None:
    """Takes away files that a kill left half written."""
    for folder in (out, out / WORK):
        for path in folder.glob(".*.partial"):
            path.unlink()


def clean(out: Path) -> None:
    """Takes away everything that a finished store does not need."""
    remove_torn(out)
    shutil.rmtree(out / WORK, ignore_errors=True)
