"""Several processes, started by torchrun, that do as one: how they meet, agree, fail and part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from hsae_hub.errors import HSAEError, StoppedElsewhere, UsageError
from hsae_hub.launch import place
from hsae_hub.models import pick_device
from hsae_hub.ops import collective

_TOLD = ("message", "why", "fix", "code")
_PATIENCE = timedelta(hours=2)  # the first one may write text or save while the others wait for it


def command() -> str:
    """What starts a training run as this one was started."""
    here = place()
    if here.world == 1:
        return "hsae train"
    return f"torchrun --nproc-per-node {here.local_world} -m hsae_hub train"


@contextmanager
def joined(device: str | None) -> Iterator[str | None]:
    """Meets the other processes and parts from them; gives the device of this one. Alone it does nothing.

    Raises:
        ResourceError: there are fewer GPUs than processes on this machine.
        UsageError: a device with a number.
        StoppedElsewhere: meanwhile another process ended.
    """
    here = place()
    if here.world == 1 or dist.is_initialized():
        yield device
        return
    own = pick_device(device)
    if own.index is not None:
        raise UsageError(f"each of {here.world} processes takes its own GPU", fix="--device cuda")
    if own.type == "cuda":
        own = pick_device(f"cuda:{here.local_rank}")
        torch.cuda.set_device(own)
    backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield str(own)
    except HSAEError:
        dist.destroy_process_group()
        raise
    except RuntimeError as error:  # the group may be broken, and closing it might wait for ever
        if not _is_lost(error):
            raise
        raise StoppedElsewhere(
            "another process of this run ended before this one",
            why="the connection to it broke",
            fix="torchrun tells which one; the same command goes on from the last checkpoint",
        ) from error
    dist.destroy_process_group()


def leads() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return collective.part().rank == 0


def largest(n: int) -> int:
    """The largest of a number that each process has."""
    return -int(collective.least(torch.tensor(-n)))


@contextmanager
def together() -> Iterator[None]:
    """What fails in one process fails in all of them, where it ends; nothing inside may wait for another one.

    Raises:
        StoppedElsewhere: another process failed, or this one, which is not to tell it.
    """
    if collective.alone():
        yield
        return
    failed = None
    try:
        yield
    except Exception as error:
        failed = error
    for told in _exchanged(failed):
        if told is not None:
            if failed is not None and leads():
                raise failed
            raise StoppedElsewhere(**told) from failed


def _exchanged(failed: Exception | None) -> list[dict[str, Any] | None]:
    """What each process has to tell of its failure; a connection that broke is not worth more than this one's."""
    told: dict[str, Any] | None = None
    if isinstance(failed, HSAEError):
        told = {name: value for name, value in failed.as_dict().items() if name in _TOLD}
    elif failed is not None:
        told = {"message": f"{type(failed).__name__}: {failed}", "code": 1}
    found: list[dict[str, Any] | None] = [None] * collective.part().world
    try:
        dist.all_gather_object(found, told)
    except RuntimeError:
        if failed is not None:
            raise failed from None
        raise
    return found


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()
