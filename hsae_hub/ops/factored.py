"""Gradients of tables as the factors that they are sums of products of, for whoever updates the tables from those.

Outside of `following` nothing here does anything: gradients are dense, where autograd looks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.ops.kernels import block_gradient
from hsae_hub.ops.kernels.uses import BlockGradient
from hsae_hub.ops.setting import Setting

Take = Callable[[BlockGradient], None]


@runtime_checkable
class Follower(Protocol):
    """Who updates tables: it hears of what is read of them, and gets their gradients."""

    def before_read(self, table: Tensor, blocks: Tensor | None) -> None:
        """Called before blocks of a table are read, all of them where None is given."""

    def taker(self, table: Tensor) -> Take | None:
        """What takes a part of the table's gradient; None where it is to be dense."""


_follower: Setting[Follower | None] = Setting("follower", None)


@contextmanager
def following(follower: Follower) -> Iterator[None]:
    """Products that are computed inside, and their backward, tell the follower."""
    token = _follower.set(follower)
    try:
        yield
    finally:
        _follower.reset(token)


def taker_for(table: Tensor, index: Int64[Tensor, "*i"] | None) -> Take | None:
    """Called before a product reads these blocks of a table, or all: what takes its gradient, if anything does."""
    follower = _follower.get()
    if follower is None:
        return None
    follower.before_read(table, index)
    return follower.taker(table)


def read_whole(table: Tensor) -> None:
    """Has to be called before a loss reads all of a table of which others read a few blocks."""
    follower = _follower.get()
    if follower is not None:
        follower.before_read(table, None)


def gradient(take: Take | None, part: BlockGradient, n: int) -> Float[Tensor, "n s width"] | None:
    """The gradient of a table of `n` blocks; None where it was handed over."""
    if take is None:
        return block_gradient(*part[:4], n)
    take(part)
    return None
