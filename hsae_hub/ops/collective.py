"""What the processes of a run know together; one process alone gets back what it gave, and nothing is communicated.

Each of several processes has some rows of the global batch, and its loss counts as much as it has rows. So the mean
over rows of whatever belongs to one row alone needs nothing from here: that is for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

T = TypeVar("T")


class Part(NamedTuple):
    """Which of several processes this is."""

    rank: int = 0
    world: int = 1

    def rows(self, n: int) -> slice:
        """Those of `n` rows that are this process's: consecutive, as many as any other's or one less or more."""
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)


def part() -> Part:
    """This process among those that work together."""
    if dist.is_available() and dist.is_initialized():
        return Part(dist.get_rank(), dist.get_world_size())
    return Part()


def alone() -> bool:
    """Whether no other process has rows of the batch."""
    return part().world == 1


def total(x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """The sum over processes; the gradient reaches all of them."""
    return x if alone() else _Total.apply(x)  # type: ignore[no-untyped-call]


def total_count(n: int) -> int:
    """The sum of a number over processes."""
    return n if alone() else int(total(torch.tensor(n)))


def mean_over_rows(mean: Shaped[Tensor, "*shape"], n: int) -> Shaped[Tensor, "*shape"]:
    """The mean over the rows of all processes, from the mean over the `n` that this one has."""
    return mean if alone() else total(mean * (n / total_count(n)))


@torch.no_grad()
def least(x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """The least value that any process has."""
    if alone():
        return x
    x = x.clone()
    dist.all_reduce(x, dist.ReduceOp.MIN)
    return x


@torch.no_grad()
def every_part(x: Shaped[Tensor, "rows *shape"]) -> list[Shaped[Tensor, "_ *shape"]]:
    """The rows of each process, first process first; they need not have equally many."""
    if alone():
        return [x]
    sizes = torch.zeros(part().world, dtype=torch.int64)
    sizes[part().rank] = len(x)
    dist.all_reduce(sizes)
    padded = x.new_zeros(int(sizes.amax()), *x.shape[1:])
    padded[: len(x)] = x
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded)
    return [rows[:size] for rows, size in zip(found, sizes.tolist(), strict=True)]


def all_rows(x: Shaped[Tensor, "rows *shape"]) -> Shaped[Tensor, "all *shape"]:
    """The rows of all processes, first process first."""
    return x if alone() else torch.cat(every_part(x))


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes, in all of them."""
    if alone():
        return make()
    found = [make() if part().rank == 0 else None]
    dist.broadcast_object_list(found)
    return found[0]  # type: ignore[return-value]


def is_alike(value: Any) -> bool:
    """Whether all processes have an equal value."""
    if alone():
        return True
    found = [None] * part().world
    dist.all_gather_object(found, value)
    return all(other == value for other in found)


def whole(x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """All of a tensor that is sharded over processes (a DTensor); any other as it is."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def beside(x: Shaped[Tensor, "*shape"], sharded: Tensor) -> Shaped[Tensor, "*shape"]:
    """A tensor that is the same in all processes, as an operand beside one that may be sharded."""
    if not hasattr(sharded, "device_mesh"):
        return x
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(x, sharded.device_mesh, [Replicate()])


class _Total(torch.autograd.Function):
    """Each process's loss depends on every addend, so their gradients add up as the addends do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad
