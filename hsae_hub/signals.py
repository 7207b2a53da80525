"""Ctrl-C and SIGTERM during long work: the first one waits for the step to end, the second one does not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from hsae_hub.errors import InterruptedRun

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopped_at_once(*, why: str, fix: str) -> Iterator[None]:
    """Ends work that waits for nobody at the first SIGINT or SIGTERM: inside it is a KeyboardInterrupt.

    Raises:
        InterruptedRun: it was stopped so.
    """
    received = [signal.SIGINT]

    def stop(number: int, frame: FrameType | None) -> None:
        received[:] = [signal.Signals(number)]
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, stop) for number in _SIGNALS} if main else {}
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRun("interrupted", signal=received[0], why=why, fix=fix) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopSignals:
    """Remembers the first SIGINT or SIGTERM while it is entered; the second acts as it would have outside.

    Where there is no step to wait for, `at_once` makes the error that the first one raises. Outside of the main thread,
    where Python lets nobody handle signals, nothing happens.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """Number of the signal that came, if one did."""
        self.at_once: Callable[[int], Exception] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            if self.at_once:
                raise self.at_once(number)
            return
        self._restore()
        signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
