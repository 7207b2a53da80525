"""Runs a language model with interventions at one place of it, through nnsight 0.8.

One edit is stored on a copy of nnsight's wrapper; it asks at every step what is to be done, so that steering changes
without a new edit and holds on every generated token. Nothing is stored on the model: a run hands its interventions
in, and they are gone when it ends, however it ends. nnsight leaves a wrapper in each module that is inert outside of a
run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from nnsight import NNsight
from nnsight.intervention.interleaver import OutOfOrderError
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from hsae_hub.attach.batches import TokenBatch, is_ordinary
from hsae_hub.models import (
    Hookpoint,
    LanguageModel,
    forward_arguments,
    hidden,
    model_lock,
    rebuild,
)

Intervention = Callable[[Float[Tensor, "b s d"], Bool[Tensor, "b s"]], Float[Tensor, "b s d"]]
"""Makes new activations of the old ones, which it must not write to, and of where they belong to ordinary tokens."""


def _install(
    model: Any,
    path: str,
    on_output: bool,
    change: Callable[[Tensor, dict[str, Any]], Tensor],
    busy: Callable[[], bool],
) -> Any:
    """The only block of the package that nnsight captures; nothing may follow it in its function."""
    with model.edit() as (tracer, edited):
        place = edited.get(path)
        try:
            for _ in tracer.iter[:]:
                arguments = edited.inputs[1]
                if busy() and on_output:
                    out = place.output
                    place.output = rebuild(out, change(hidden(out), arguments))
                elif busy():
                    place.input = change(place.input, arguments)
        except (
            OutOfOrderError
        ):  # how nnsight ends an open loop when the model has run its last step
            pass
    return edited


class Engine:
    """A language model and one place of it. Safe to use from several threads, which take turns."""

    def __init__(self, lm: LanguageModel, hookpoint: Hookpoint) -> None:
        self.lm = lm
        self.special = torch.tensor(sorted(lm.special_ids), dtype=torch.int64)
        self._lock = model_lock(lm.hf)
        self._running: tuple[Intervention, ...] = ()
        with self._lock:
            self._model = _install(
                # NNsight, not TransformersModel: that one changes the tokenizer and moves the model to the first GPU
                NNsight(lm.hf),
                hookpoint.full_path(lm.hf),
                hookpoint.side == "output",
                self._change,
                lambda: bool(self._running),
            )

    def logits(
        self, batch: TokenBatch, interventions: Sequence[Intervention] = ()
    ) -> Float[Tensor, "b s vocabulary"]:
        """One forward with the interventions, first to last."""
        arguments = forward_arguments(self.lm.hf, batch.ids, batch.mask)
        logits: Tensor = self._run(None, arguments, interventions).logits
        return logits

    def generate(
        self,
        batch: TokenBatch,
        config: GenerationConfig,
        processors: LogitsProcessorList,
        interventions: Sequence[Intervention] = (),
    ) -> Int64[Tensor, "b n"]:
        """Continues every row, with the interventions at every step; the ids of prompt and continuation."""
        arguments = {
            "input_ids": batch.ids,
            "attention_mask": batch.mask,
            "generation_config": config,
            "logits_processor": processors,
        }
        ids: Tensor = self._run(self.lm.hf.generate, arguments, interventions)
        return ids

    @torch.no_grad()
    def _run(
        self,
        function: Callable[..., Any] | None,
        arguments: dict[str, Any],
        interventions: Sequence[Intervention],
    ) -> Any:
        with self._lock:
            self._running = tuple(interventions)
            try:
                # without a `with` block: nnsight need not look for one in our source
                return self._model.trace(fn=function, trace=False, **arguments)
            finally:
                self._running = ()

    def _change(self, activations: Tensor, arguments: dict[str, Any]) -> Tensor:
        mask = arguments.get("attention_mask")
        ordinary = is_ordinary(
            arguments["input_ids"], mask if isinstance(mask, Tensor) else None, self.special
        ).to(activations.device)
        for intervention in self._running:
            activations = intervention(activations, ordinary)
        return activations
