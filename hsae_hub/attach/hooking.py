"""Runs a language model with interventions through plain PyTorch hooks, which are there only while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch.nn import Module
from torch.utils.hooks import RemovableHandle

from hsae_hub.attach.running import Run
from hsae_hub.models import Hookpoint, LanguageModel, first_input, hidden, rebuild, replace_input


class HooksRunner:
    """The simple engine: no tracing, and nothing between the model and its hooks."""

    def __init__(self, lm: LanguageModel) -> None:
        self._hf = lm.hf
        self._modules: dict[Hookpoint, Module] = {}

    def call(self, function: Callable[..., Any] | None, arguments: dict[str, Any], run: Run) -> Any:
        """The model's own call, or one of its methods."""
        with self._hooked(run):
            return (function or self._hf)(**arguments)

    @contextmanager
    def _hooked(self, run: Run) -> Iterator[None]:
        with ExitStack() as stack:
            if run.changes:
                begin = self._hf.register_forward_pre_hook(
                    lambda _m, _args, kwargs: run.begin(kwargs), with_kwargs=True
                )
                stack.callback(begin.remove)
            for hookpoint in run.changes:
                if hookpoint not in self._modules:
                    self._modules[hookpoint] = hookpoint.module(self._hf)
                stack.callback(_hook(self._modules[hookpoint], hookpoint, run).remove)
            yield


def _hook(module: Module, hookpoint: Hookpoint, run: Run) -> RemovableHandle:
    if hookpoint.side == "output":
        return module.register_forward_hook(
            lambda _m, _args, out: rebuild(out, run.change(hookpoint, hidden(out)))
        )
    return module.register_forward_pre_hook(
        lambda _m, args, kwargs: replace_input(
            args, kwargs, run.change(hookpoint, first_input(args, kwargs))
        ),
        with_kwargs=True,
    )
