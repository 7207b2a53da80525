"""Runs a language model with interventions on NDIF, through nnsight's remote execution: no weights are loaded here.

What is to be done travels as a block of code together with the interventions and their classes, for the server has not
got this package. What an intervention does not use stays behind: pushing along features takes two vectors. The server
keeps the model for everybody, so nothing can be left on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from types import SimpleNamespace
from typing import Any, NamedTuple

import nnsight
import torch
from jaxtyping import Float, Int64
from nnsight import TransformersModel
from torch import Tensor
from transformers import AutoTokenizer

import hsae_hub
from hsae_hub.attach.batches import Reading, read_now
from hsae_hub.attach.running import Intervention, Run
from hsae_hub.attach.shipping import lean
from hsae_hub.errors import UsageError
from hsae_hub.models import (
    LanguageModel,
    first_input,
    hidden,
    locate,
    rebuild,
    replace_input,
)

_GREEDY = ("max_new_tokens", "min_new_tokens", "pad_token_id")
"""What of a generation's settings the server is told, beside that it is greedy."""


class Part(NamedTuple):
    """What is done at one place; it is shipped, so it holds nothing that knows the package's other floors."""

    path: str
    on_output: bool
    changes: tuple[Intervention, ...]


class Reader:
    """Keeps what a server has read of a batch so far, without beams; it is shipped."""

    def __init__(self, run: Run) -> None:
        self.ids = run.batch.ids
        self.mask = run.batch.mask.bool()
        self.special = run.special
        self.begun = False

    def read(self, input_ids: Int64[Tensor, "b s"]) -> Reading:
        """A forward reads these tokens: the last ones of each row."""
        width, read = self.mask.shape[1], input_ids.shape[1]
        if self.begun:
            self.ids = torch.cat([self.ids.to(input_ids), input_ids[:, -1:]], 1)
        self.begun = True
        ids = self.ids.to(input_ids.device)
        new = self.mask.new_ones(len(ids), ids.shape[1] - width)
        mask = torch.cat([self.mask, new], 1).to(ids.device)
        return read_now(ids, mask, read, width, self.special)


def _apply(model: Any, parts: Sequence[Part], reading: Reading) -> None:
    """Called from within both blocks; places come in the order in which a forward reaches them."""
    for path, on_output, changes in parts:
        module = model.get(path)
        if on_output:
            out = module.output
            module.output = rebuild(out, _changed(hidden(out), changes, reading))
        else:
            args, kwargs = module.inputs
            changed = _changed(first_input(args, kwargs), changes, reading)
            module.inputs = replace_input(args, kwargs, changed)


def _changed(
    activations: Float[Tensor, "b s d"], changes: Sequence[Intervention], reading: Reading
) -> Float[Tensor, "b s d"]:
    for change in changes:
        activations = change(activations, reading.to(activations.device))
    return activations


def _read(model: Any, arguments: Any, parts: Any, reader: Any, backend: Any) -> Any:
    """One block of code that is shipped; nothing may follow it in its function but what it gives."""
    with model.trace(**arguments, backend=backend):
        _apply(model, parts, reader.read(model.inputs[1]["input_ids"]))
        logits = nnsight.save(model.output.logits)
    return logits


def _write(
    model: Any, tokens: Any, settings: Any, parts: Any, reader: Any, steps: Any, backend: Any
) -> Any:
    """The other one. The result has an invoke of its own: where rows end early, nothing after the loop is run."""
    with model.generate(**settings, backend=backend) as tracer:
        with tracer.invoke(**tokens):
            for _ in steps:
                _apply(model, parts, reader.read(model.inputs[1]["input_ids"]))
        with tracer.invoke():
            ids = nnsight.save(tracer.result)
    return ids


class RemoteRunner:
    """The engine `ndif`: a forward or a greedy generation is one request."""

    def __init__(self, lm: LanguageModel, model: Any) -> None:
        self._lm = lm
        self.model = model

    def call(self, function: Callable[..., Any] | None, arguments: dict[str, Any], run: Run) -> Any:
        """A forward, of which only the logits come back, or a generation, of which the ids do."""
        parts = [
            Part(each.full_path(self._lm.hf), each.side == "output", tuple(map(lean, changes)))
            for each, changes in run.changes.items()
        ]
        nnsight.register(hsae_hub)  # what is ours goes along by value
        if function is None:
            logits = _read(self.model, arguments, parts, Reader(run), self.backend())
            return SimpleNamespace(logits=logits)
        config = arguments["generation_config"]
        unknown = [
            name
            for name in ("logits_processor", "stopping_criteria", "streamer")
            if arguments[name]
        ]
        if unknown or config.num_beams not in (None, 1) or config.do_sample:
            raise UsageError(
                "on NDIF a text is continued greedily and comes back as a whole",
                fix="temperature 0, one beam, no stream; or attach to a model that is here",
            )
        tokens = {name: arguments[name] for name in ("input_ids", "attention_mask")}
        told = {name: getattr(config, name) for name in _GREEDY}
        settings = {name: value for name, value in told.items() if value is not None}
        steps = nnsight.intervention.iterator.Iterations()[: config.max_new_tokens]
        return _write(
            self.model,
            tokens,
            {**settings, "do_sample": False},
            parts,
            Reader(run),
            steps,
            self.backend(),
        )

    def backend(self) -> Any:
        """Where requests go: the NDIF host that nnsight is configured for."""
        return self.model._remote_backend(True, True, None, False)


def remote_language_model(source: str, revision: str | None) -> tuple[LanguageModel, Any]:
    """A language model of which only config and tokenizer are here, and nnsight's wrapper of it.

    Raises:
        HSAEError: whatever finding a model raises.
    """
    place = locate(source, revision)
    where = {"revision": place.commit} if place.commit else {}
    tokenizer = AutoTokenizer.from_pretrained(place.path, **where)
    # nnsight changes the padding side of the one that it is given
    model = TransformersModel(
        place.path, tokenizer=copy(tokenizer), task="text-generation", **where
    )
    lm = LanguageModel(model._module.eval(), tokenizer, place.name, place.commit, remote=True)
    return lm, model
