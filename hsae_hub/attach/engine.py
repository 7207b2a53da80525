"""A language model that runs with interventions at some of its places, through nnsight or through plain hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from hsae_hub.attach.batches import TokenBatch
from hsae_hub.attach.hooking import HooksRunner
from hsae_hub.attach.remote import RemoteRunner
from hsae_hub.attach.running import Placed, Run
from hsae_hub.attach.tracing import NNsightRunner
from hsae_hub.attach.vllm import VLLMRunner
from hsae_hub.errors import UsageError
from hsae_hub.models import (
    Hookpoint,
    LanguageModel,
    forward_arguments,
    in_order_of_execution,
    model_lock,
)

EngineName = Literal["nnsight", "hooks", "ndif", "vllm"]
"""`nnsight`: the default; `hooks`: without it, no traces; `ndif`: on NDIF's servers; `vllm`: on vLLM."""


class Engine:
    """A language model and some places of it. Safe to use from several threads, which take turns."""

    def __init__(
        self,
        lm: LanguageModel,
        hookpoints: Sequence[Hookpoint],
        name: EngineName = "nnsight",
        *,
        remote: RemoteRunner | VLLMRunner | None = None,
    ) -> None:
        """`remote` runs a model whose weights are not here, whatever the name."""
        self.lm = lm
        self._lock = model_lock(lm.hf)
        with self._lock:
            order = list(hookpoints) if name == "hooks" else in_order_of_execution(lm, hookpoints)
            self._runner = remote or (
                NNsightRunner(lm, order) if name == "nnsight" else HooksRunner(lm)
            )
        self._order = {hookpoint: number for number, hookpoint in enumerate(order)}

    def logits(
        self, batch: TokenBatch, placed: Sequence[Placed] = (), *, gradients: bool = False
    ) -> Float[Tensor, "b s vocabulary"]:
        """One forward with the interventions, first to last; padding may be on either side.

        With `gradients` what the interventions put in place stays connected to the logits.

        Raises:
            UsageError: gradients, of a model that is not here.
        """
        if gradients and self.lm.remote:
            raise UsageError(
                f"{self.lm.id} runs elsewhere, and no gradients come from there",
                fix="attach(sae) runs it here",
            )
        arguments = forward_arguments(self.lm.hf, batch.ids, batch.mask)
        with torch.set_grad_enabled(gradients):
            logits: Tensor = self._call(None, arguments, batch, placed).logits
        return logits

    def generate(
        self,
        batch: TokenBatch,
        config: GenerationConfig,
        placed: Sequence[Placed] = (),
        *,
        processors: LogitsProcessorList | None = None,
        stopping: StoppingCriteriaList | None = None,
        streamer: BaseStreamer | None = None,
    ) -> Int64[Tensor, "b n"]:
        """Continues every row, with the interventions at every step; the ids of prompt and continuation."""
        with torch.no_grad():
            ids: Tensor = self._call(
                self.lm.hf.generate,
                _generating(batch, config, processors, stopping, streamer),
                batch,
                placed,
            )
        return ids

    def trace(
        self, batch: TokenBatch, placed: Sequence[Placed], config: GenerationConfig | None = None
    ) -> Any:
        """nnsight's tracer for the user's own block over one forward, or over a generation.

        Raises:
            UsageError: the engine is not nnsight's.
        """
        runner = self._tracing()
        run = Run(batch, placed, self.lm.special)
        if config is None:
            arguments = forward_arguments(self.lm.hf, batch.ids, batch.mask)
            return runner.trace(None, arguments, lambda: self._taken(run, None))
        function = self.lm.hf.generate
        arguments = _generating(batch, config, None, None, None)
        return runner.trace(function, arguments, lambda: self._taken(run, function))

    @property
    def model(self) -> Any:
        """nnsight's wrapper of the model, for use inside a trace.

        Raises:
            UsageError: the engine is not nnsight's.
        """
        return self._tracing().model

    def point(self, name: str) -> Any:
        """A new place that traces can address; None where there are no traces."""
        return self._runner.point(name) if isinstance(self._runner, NNsightRunner) else None

    def _tracing(self) -> NNsightRunner:
        if not isinstance(self._runner, NNsightRunner):
            raise UsageError(
                "traces are nnsight's, and this model is run through "
                + ("plain hooks" if isinstance(self._runner, HooksRunner) else "another engine"),
                fix="attach(sae) without engine=…",
            )
        return self._runner

    def _call(
        self,
        function: Callable[..., Any] | None,
        arguments: dict[str, Any],
        batch: TokenBatch,
        placed: Sequence[Placed],
    ) -> Any:
        # nnsight asks for places as a forward reaches them; of one place first stays first
        inwards = sorted(placed, key=lambda each: self._order.get(each.hookpoint, 0))
        run = Run(batch, inwards, self.lm.special)
        with self._taken(run, function):
            result = self._runner.call(function, arguments, run)
        if not self.lm.remote:
            run.check()
        return result

    @contextmanager
    def _taken(self, run: Run, function: Callable[..., Any] | None) -> Iterator[Run]:
        with self._lock, run.followed(self.lm.hf) if function else nullcontext():
            yield run


def _generating(
    batch: TokenBatch,
    config: GenerationConfig,
    processors: LogitsProcessorList | None,
    stopping: StoppingCriteriaList | None,
    streamer: BaseStreamer | None,
) -> dict[str, Any]:
    config = copy(config)
    # with a static cache transformers would compile a forward that is hooked
    config.disable_compile = True
    return {
        "input_ids": batch.ids,
        "attention_mask": batch.mask,
        "generation_config": config,
        "logits_processor": processors,
        "stopping_criteria": stopping,
        "streamer": streamer,
    }
