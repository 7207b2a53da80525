"""Runs a language model with interventions through nnsight 0.8, and lets users trace it.

One edit is stored on a copy of nnsight's wrapper; it asks at every step what is to be done, so that steering changes
without a new edit and holds on every generated token. Nothing is stored on the model: a call hands its run in, and it
is gone when the call ends, however it ends. nnsight leaves a wrapper in each module that is inert outside of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Any

from nnsight import Envoy, NNsight
from nnsight.intervention.interleaver import OutOfOrderError
from nnsight.tracing.backend import Backend
from torch import nn

from hsae_hub.attach.running import Run
from hsae_hub.errors import UsageError
from hsae_hub.models import Hookpoint, LanguageModel, first_input, hidden, rebuild, replace_input

_NUMBERS = count()


def _install(
    model: Any, places: Sequence[tuple[Hookpoint, str]], running: Callable[[], Run | None]
) -> Any:
    """The only block of the package that nnsight captures; nothing may follow it in its function."""
    with model.edit() as (tracer, edited):
        modules = [(hookpoint, edited.get(path)) for hookpoint, path in places]
        try:
            for _ in tracer.iter[:]:
                arguments = edited.inputs[1]
                run = running()
                if run is not None:
                    run.begin(arguments)
                    for hookpoint, module in modules:
                        if hookpoint not in run.changes:
                            pass
                        elif hookpoint.side == "output":
                            out = module.output
                            module.output = rebuild(out, run.change(hookpoint, hidden(out)))
                        else:
                            args, kwargs = module.inputs
                            changed = run.change(hookpoint, first_input(args, kwargs))
                            module.inputs = replace_input(args, kwargs, changed)
        except OutOfOrderError:
            pass  # how nnsight ends an open loop when the model has run its last step
    return edited


class NNsightRunner:
    """The default engine: the user's own traces see what it does, and the SAE's latents."""

    def __init__(self, lm: LanguageModel, hookpoints: Sequence[Hookpoint]) -> None:
        """The hookpoints come in the order in which the model reaches them."""
        self._running: Run | None = None
        self.model = _install(
            # NNsight, not TransformersModel: that one changes the tokenizer and moves the model to the first GPU
            _Model(lm.hf),
            [(each, each.full_path(lm.hf)) for each in hookpoints],
            lambda: self._running,
        )

    def call(self, function: Callable[..., Any] | None, arguments: dict[str, Any], run: Run) -> Any:
        """The model's own call, or one of its methods."""
        with self._holding(run):
            # without a `with` block: nnsight need not look for one in our source
            return self.model.trace(fn=function, trace=False, **arguments)

    def trace(
        self,
        function: Callable[..., Any] | None,
        arguments: dict[str, Any],
        around: Callable[[], AbstractContextManager[Run]],
    ) -> Any:
        """A tracer for the user's `with`; when its block is run, it is run inside `around`, with the run from there."""
        return self.model.trace(fn=function, backend=_Around(self, around), **arguments)

    def point(self, name: str) -> Any:
        """A new place that traces can address, outside of the model: called with a value it gives the value."""
        path = f"hsae.{next(_NUMBERS)}.{name}"  # two attachments to one model need different ones
        return Envoy(_Point(), path=path, interleaver=self.model.interleaver)

    @contextmanager
    def _holding(self, run: Run) -> Iterator[None]:
        if self.model.interleaver.interleaving:
            raise UsageError(
                "the model is already running: this call stands inside a trace",
                why="a forward inside a forward would go without interventions",
                fix="call it before or after the `with lm.trace(…)` block",
            )
        self._running = run if run.changes else None
        try:
            yield
        finally:
            self._running = None


class _Model(NNsight):  # type: ignore[misc]  # nnsight comes without types here
    device = None
    """nnsight would move inputs to where the first weight is, and with accelerate's offloading that is nowhere."""


class _Point(nn.Module):
    def forward(self, value: Any) -> Any:
        return value


class _Around(Backend):  # type: ignore[misc]  # nnsight comes without types here
    def __init__(
        self, runner: NNsightRunner, around: Callable[[], AbstractContextManager[Run]]
    ) -> None:
        self._runner = runner
        self._around = around

    def __call__(self, tracer: Any) -> None:
        with self._around() as run, self._runner._holding(run):
            tracer.execute(tracer.info.code)
