"""Text that comes piece by piece while the language model writes it in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from threading import Event, Thread
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from hsae_hub.attach.engine import Engine
from hsae_hub.attach.generating import prepare, text_after
from hsae_hub.attach.prompts import Prompt, encode_prompts
from hsae_hub.attach.running import Placed
from hsae_hub.attach.writing import Draw, Writing
from hsae_hub.models import LanguageModel

T = TypeVar("T")
_CONTEXT = 8
"""Tokens before a new one that its text is decoded with."""


class _Over(NamedTuple):
    """Ends a stream, and says what went wrong."""

    error: BaseException | None


class Stream(Generic[T]):
    """Iterates over what is written, as it is written; `stop`, `close` or letting go of it ends the writing.

    The interventions are those of the blocks that were open when it was made, whatever is opened or closed later.
    """

    def __init__(self, work: Callable[[Callable[[T], None], Event], None]) -> None:
        self._queue: SimpleQueue[T | _Over] = SimpleQueue()
        self._stopped = Event()
        self._over = False
        # the thread knows queue and event, not the stream, so that a stream nobody holds any more is stopped
        self._thread = Thread(
            target=_run, args=(work, self._queue, self._stopped), daemon=True, name="hsae-stream"
        )
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        found = self._queue.get()
        if not isinstance(found, _Over):
            return found
        self._over = True
        self._thread.join()
        if found.error is not None:
            raise found.error
        raise StopIteration

    def stop(self) -> None:
        """Ends the writing after the token that is being written, from any thread; what is written still comes."""
        self._stopped.set()

    def close(self) -> None:
        """Ends the writing and waits until the model is free; nothing more comes."""
        self.stop()
        self._thread.join()
        self._over = True

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._stopped.set()


def _run(
    work: Callable[[Callable[[T], None], Event], None],
    queue: SimpleQueue[T | _Over],
    stopped: Event,
) -> None:
    try:
        work(queue.put, stopped)
    except BaseException as error:
        queue.put(_Over(error))
    else:
        queue.put(_Over(None))


class Told(BaseStreamer):  # type: ignore[misc]  # transformers comes without types here
    """Hands every step's tokens on; transformers puts the prompt first."""

    def __init__(self, tell: Callable[[list[int]], None]) -> None:
        self.tell = tell
        self.begun = False

    def put(self, value: Tensor) -> None:
        """The ids of the prompt, later one id a row."""
        if self.begun:
            self.tell([int(i) for i in value.reshape(-1)])
        self.begun = True

    def end(self) -> None:
        """Nothing is held back here."""


class Text:
    """A text that grows by tokens: a token may be a part of a character, which is told once it is whole."""

    def __init__(self, lm: LanguageModel, prompt: Sequence[int]) -> None:
        self._lm = lm
        self._before = list(prompt[-_CONTEXT:])
        self._new: list[int] = []

    def add(self, token: int) -> str:
        """The text that is new with a token."""
        self._new.append(token)
        text = text_after(self._lm, self._before, self._new)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._before, self._new = [*self._before, *self._new][-_CONTEXT:], []
        return text

    def rest(self) -> str:
        """What is left of a character that never became whole."""
        return text_after(self._lm, self._before, self._new) if self._new else ""


def stream_text(
    engine: Engine, prompt: Prompt, placed: Sequence[Placed], writing: Writing
) -> Stream[str]:
    """Pieces of what the model writes after a prompt; joined they are what `generate` gives.

    Raises:
        UsageError: as for `continue_texts`.
    """
    lm = engine.lm
    (ids,) = encode_prompts(lm, [prompt])
    prepare(lm, [ids], writing, Event())  # what cannot be meant is told here, not in the thread

    def work(tell: Callable[[str], None], stopped: Event) -> None:
        batch, config, ends = prepare(lm, [ids], writing, stopped)
        text = Text(lm, ids)
        draw = [Draw(writing.temperature, [writing.seed])] if writing.temperature else []

        def step(tokens: list[int]) -> None:
            piece = text.add(tokens[0])
            if piece:
                tell(piece)

        engine.generate(
            batch,
            config,
            placed,
            processors=LogitsProcessorList(draw),
            stopping=StoppingCriteriaList([ends]),
            streamer=Told(step),
        )
        if rest := text.rest():
            tell(rest)

    return Stream(work)
