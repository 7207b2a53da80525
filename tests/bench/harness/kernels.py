"""Which kernels the sparse products take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from harness.timing import Way
from hsae_hub.ops import kernels
from hsae_hub.ops.kernels import plain, plain_update, update


@contextmanager
def plain_torch() -> Iterator[None]:
    """Nothing compiled: what somebody without the extra `fast` has."""
    products = patch.object(kernels, "pick", lambda *sizes, **tensors: plain)
    updates = patch.object(update, "pick", lambda *tensors: plain_update)
    with products, updates:
        yield


def in_plain_torch(work: Callable[[], object]) -> Way:
    """`work` without compiled kernels."""

    def way() -> None:
        with plain_torch():
            work()

    return way
