"""Updates of tables from the uses of their blocks: one interface, several machines.

A table `[n, s, width]` has moments of its shape. `unit` keeps its rows at norm 1: of their gradient the part along a
row is dropped, and afterwards they are renormalised.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.ops.kernels import plain_update
from hsae_hub.ops.kernels.uses import AdamStep, Learned, Missed, Uses


def square_norms(uses: Uses, unit: Float[Tensor, "n s width"] | None) -> Float[Tensor, " used"]:
    """Of the gradient of each used block the sum of squares; with `unit` without the part along its unit rows."""
    return pick(uses.x).square_norms(uses, unit)  # type: ignore[no-any-return]


def adam_blocks_(
    learned: Learned,
    uses: Uses,
    adam: AdamStep,
    *,
    unit: bool,
    only_used: bool,
) -> None:
    """A step of Adam, in place; with `only_used` blocks without a use keep what they have."""
    pick(learned.table).adam_blocks_(learned, uses, adam, unit=unit, only_used=only_used)


def adam_columns_(
    learned: Learned,
    uses: Uses,
    adam: AdamStep,
) -> None:
    """A step of Adam of a matrix whose columns are the blocks, in place."""
    pick(learned.table).adam_columns_(learned, uses, adam)


def catch_up_(
    learned: Learned,
    blocks: Int64[Tensor, " blocks"],
    missed: Missed,
    *,
    unit: bool,
) -> None:
    """Takes the steps that blocks have missed, in place."""
    pick(learned.table).catch_up_(learned, blocks, missed, unit=unit)


def suits(x: Tensor) -> bool:
    """Whether there are kernels for tables of this type on this device."""
    if x.is_cuda:
        return x.dtype == torch.float32 and _cuda() is not None
    return x.device.type == "cpu" and x.dtype != torch.bfloat16


def pick(x: Tensor) -> ModuleType:
    """The kernels that are fastest for such tensors here."""
    if x.is_cuda:
        return _cuda() or plain_update
    if x.device.type == "cpu" and x.dtype == torch.float32 and _has_numba():
        return import_module("hsae_hub.ops.kernels.fast_update")
    return plain_update


@cache
def _has_numba() -> bool:
    return find_spec("numba") is not None


@cache
def _cuda() -> ModuleType | None:
    return import_module("hsae_hub.ops.kernels.cuda_update") if find_spec("triton") else None
