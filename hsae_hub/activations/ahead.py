"""Work that a thread does before its results are asked for, one piece after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """What calls of `work` return, in their order. It runs in one thread, and never in two places at once."""

    def __init__(self, work: Callable[[], T], name: str) -> None:
        self._work = work
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._coming: deque[Future[T]] = deque()

    def begin(self) -> None:
        """Asks for one more call."""
        self._coming.append(self._thread.submit(self._work))

    @property
    def begun(self) -> int:
        """Calls asked for whose results were not taken."""
        return len(self._coming)

    def done(self) -> Iterator[T]:
        """Results that wait to be taken; those of calls that failed are left out."""
        for future in self._coming:
            if future.done() and future.exception() is None:
                yield future.result()

    def take(self) -> T:
        """The next result, which is waited for; where the call failed its exception is raised."""
        if not self._coming:
            self.begin()
        return self._coming.popleft().result()

    def forget(self) -> None:
        """Drops what was not taken; a call that is running ends first."""
        while self._coming:
            future = self._coming.popleft()
            if not future.cancel():
                future.exception()

    def close(self) -> None:
        """Ends the thread; a call that is running ends first."""
        self._thread.shutdown(cancel_futures=True)
