"""What becomes of the activations during one call of a language model, whoever calls it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import pad

from hsae_hub.attach.batches import Reading, TokenBatch, read_now
from hsae_hub.models import Hookpoint

Intervention = Callable[[Float[Tensor, "b s d"], Reading], Float[Tensor, "b s d"]]
"""Makes new activations of the old ones, which it must not write to, and of what the model reads."""


class Placed(NamedTuple):
    """An intervention at one place of the model."""

    hookpoint: Hookpoint
    change: Intervention


class Run:
    """One call of the model, a forward or a generation, with its interventions; an engine tells it what passes."""

    def __init__(
        self, batch: TokenBatch, placed: Sequence[Placed], special: Int64[Tensor, " special"]
    ) -> None:
        self.changes: dict[Hookpoint, list[Intervention]] = {}
        for hookpoint, change in placed:
            self.changes.setdefault(hookpoint, []).append(change)
        self.batch = batch
        self.special = special
        self._ids = batch.ids
        self._prompt = batch.mask.bool()
        width = batch.ids.shape[1]
        self._reading = read_now(batch.ids, self._prompt, width, width, special)
        self._forwards = 0
        self._changed: Counter[Hookpoint] = Counter()

    def begin(self, arguments: dict[str, Any]) -> None:
        """A forward begins with these arguments."""
        width = self.batch.ids.shape[1]
        self._forwards += 1
        if self._ids is self.batch.ids and self._forwards == 1:
            return
        # beams and several texts from one prompt stand side by side, as transformers expands a batch
        copies = len(self._ids) // len(self._prompt)
        if copies > 1:
            self._prompt = self._prompt.repeat_interleave(copies, 0)
        mask = pad(self._prompt, (0, self._ids.shape[1] - width), value=True)
        read = arguments["input_ids"].shape[1]
        self._reading = read_now(self._ids, mask, read, width, self.special)

    def change(
        self, hookpoint: Hookpoint, activations: Float[Tensor, "b s d"]
    ) -> Float[Tensor, "b s d"]:
        """What takes the place of the activations at a hookpoint, first intervention to last."""
        reading = self._reading.to(activations.device)
        for intervention in self.changes[hookpoint]:
            activations = intervention(activations, reading)
        self._changed[hookpoint] += 1
        return activations

    def check(self) -> None:
        """Raises RuntimeError when a forward went by without its interventions, which nobody would see otherwise."""
        for hookpoint in self.changes:
            if self._changed[hookpoint] != self._forwards:
                raise RuntimeError(
                    f"{hookpoint} was reached in {self._changed[hookpoint]} of {self._forwards} forwards"
                )

    @contextmanager
    def followed(self, hf: nn.Module) -> Iterator[None]:
        """Inside, the run knows every token that `hf.generate` has so far: a forward with a cache is not told them.

        With beams rows change places between forwards, so what was read before cannot simply be remembered.
        """
        prepare = hf.prepare_inputs_for_generation
        assert callable(prepare)

        @wraps(prepare)
        def watched(input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._ids = input_ids
            return prepare(input_ids, *args, **kwargs)

        own = vars(hf).get("prepare_inputs_for_generation")
        vars(hf)["prepare_inputs_for_generation"] = watched
        try:
            yield
        finally:
            del vars(hf)["prepare_inputs_for_generation"]
            if own is not None:
                vars(hf)["prepare_inputs_for_generation"] = own
