"""Pulls that go on whoever looks on: a page that is loaded again finds them as they are."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from hsae_hub.errors import ConflictError, HSAEError
from hsae_hub.hub import Hub

_AT_ONCE = 2


@dataclass
class Job:
    """A pull, under way or over."""

    ref: str
    done: int = 0
    """Bytes."""
    total: int = 0
    over: bool = False
    error: HSAEError | None = None


class Pulls:
    """The pulls of a server, by what is pulled."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def start(self, ref: str) -> Job:
        """Begins a pull, or returns the one that is under way.

        Raises:
            ConflictError: others are under way already.
        """
        with self._lock:
            running = [job for job in self.jobs.values() if not job.over]
            known = next((job for job in running if job.ref == ref), None)
            if known is not None:
                return known
            if len(running) >= _AT_ONCE:
                raise ConflictError(
                    f"{len(running)} pulls are under way", fix="wait until one of them is over"
                )
            self.jobs[ref] = job = Job(ref)
        threading.Thread(target=self._run, args=(job,), daemon=True, name="hsae-pull").start()
        return job

    def _run(self, job: Job) -> None:
        def tell(done: int, total: int) -> None:
            job.done, job.total = done, total

        try:
            self.hub.pull(job.ref, on_progress=tell)
        except HSAEError as error:
            job.error = error
        finally:
            job.over = True
