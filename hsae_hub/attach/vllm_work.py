"""What is done in every request that vLLM runs, in the process where the model is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from hsae_hub.attach.batches import Reading, read_now
from hsae_hub.attach.running import Intervention
from hsae_hub.attach.shipping import moved
from hsae_hub.attach.two_parts import joined, joined_input, parted, parted_input


class Part(NamedTuple):
    """What is done at one place."""

    path: str
    on_output: bool
    is_stream: bool
    changes: tuple[Intervention | None, ...]
    """None changes nothing: what passes there is kept, and comes back."""


class Work:
    """What is done in every request of a call; it is shipped, and all copies share it."""

    def __init__(
        self, parts: Sequence[Part], special: Int64[Tensor, " special"], keeps_logits: bool
    ) -> None:
        """The parts come in the order in which a forward reaches them."""
        self.special = special
        self.keeps_logits = keeps_logits
        self._parts = tuple(parts)
        self._on = torch.device("cpu")

    def parts(self, device: torch.device) -> tuple[Part, ...]:
        """All of it, brought to where the model is when it is first asked for there."""
        if device != self._on:
            self._parts, self._on = moved(self._parts, device), device
        return self._parts


class Request:
    """One request on its way, in the process where the model is."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.ids = torch.zeros(1, 0, dtype=torch.int64)
        self.prompt = 0

    def read(self, ids: Int[Tensor, " s"], first: int) -> Reading:
        """A step reads these tokens, the first of them at this position."""
        new = ids[None].long()
        self.ids = torch.cat([self.ids[:, :first].to(new.device), new], 1)
        # after the first step vLLM reads more than one token only where it begins again
        self.prompt = self.prompt or len(ids)
        mask = torch.ones_like(self.ids, dtype=torch.bool)
        return read_now(self.ids, mask, len(ids), self.prompt, self.work.special)


def take_step(model: Any, request: Request, home: dict[str, Any]) -> None:
    """What becomes of one step of a request, called from within nnsight's block; `home` is what comes back of it."""
    told = model.inputs[1]
    reading = request.read(told["input_ids"], int(told["positions"].reshape(-1)[0]))
    for path, on_output, is_stream, changes in request.work.parts(reading.ids.device):
        module = model.get(path)
        changes_it = any(change is not None for change in changes)
        if on_output:
            value = module.output
            new = _changed(joined(value, is_stream), changes, reading, home)
            if changes_it:
                module.output = parted(value, new, is_stream)
        else:
            args, kwargs = module.inputs
            own = module._module
            new = _changed(joined_input(own, args, kwargs, is_stream), changes, reading, home)
            if changes_it:
                module.inputs = parted_input(own, args, kwargs, new, is_stream)
    if request.work.keeps_logits:
        home["logits"] = model._module.compute_logits(model.output).cpu()
    home["steps"] += 1


def _changed(
    activations: Float[Tensor, "tokens d"],
    changes: Sequence[Intervention | None],
    reading: Reading,
    home: dict[str, Any],
) -> Float[Tensor, "tokens d"]:
    for change in changes:
        if change is None:
            # vLLM writes over its activations
            home["kept"].append(activations.to("cpu", copy=True))
        else:
            activations = change(activations[None], reading)[0]
    return activations
