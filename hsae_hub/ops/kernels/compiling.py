"""Functions compiled by numba, and their work spread over torch's threads.

numba's own threads are not used: its workqueue ends the process when two Python threads call at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import numba
import torch

F = TypeVar("F", bound=Callable[..., Any])
_pool: ThreadPoolExecutor | None = None


def compiled(*, reorder: bool) -> Callable[[F], F]:
    """Compiles a function when it is first called, and keeps the result on disk where that can be written.

    Products are added in one rounding; `reorder` lets sums be taken in the order that is fastest for their length.
    """
    flags = {"contract", "nsz"} | ({"reassoc"} if reorder else set())

    def compile_(function: F) -> F:
        made = numba.njit(nogil=True, fastmath=flags, error_model="numpy")(function)
        try:
            made.enable_caching()
        except RuntimeError:  # neither beside the source nor in the user's cache
            pass
        return made  # type: ignore[no-any-return]

    return compile_


def spread(work: Callable[[int, int], object], n: int, threads: int) -> None:
    """Calls `work(first, last)` for ranges that make up `0 … n`, one a thread, this one included."""
    parts = max(min(threads, n), 1)
    first, *rest = pairwise(n * i // parts for i in range(parts + 1))
    others: list[Future[object]] = [_threads().submit(work, *part) for part in rest]
    work(*first)
    for other in others:
        other.result()


def threads_for(operations: int) -> int:
    """Threads that so much work is worth."""
    return max(min(torch.get_num_threads(), operations // _OPERATIONS_A_THREAD), 1)


_OPERATIONS_A_THREAD = 1_000_000  # some 30 µs: to wake a thread takes about as long


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="hsae-kernels")
    return _pool


def _forget_threads() -> None:
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_threads)
