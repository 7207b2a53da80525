"""Steered text beside the text without, and how far each token went from the model as it is: all in one batch.

Row 0 writes without interventions. For every way of steering one row writes with it, and behind it one row reads that
same text without: the distributions of the two belong to the same words, so their KL is the steering's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from threading import Event
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from hsae_hub.attach.batches import Reading
from hsae_hub.attach.engine import Engine
from hsae_hub.attach.generating import prepare
from hsae_hub.attach.prompts import Prompt, encode_prompts
from hsae_hub.attach.running import Intervention, Placed
from hsae_hub.attach.streaming import Stream, Text, Told
from hsae_hub.attach.writing import Draw, Writing


class BesideStep(NamedTuple):
    """What one step wrote; a text that has ended gets no more pieces."""

    unsteered: str
    steered: tuple[str, ...]
    """One for each way of steering."""
    kl: tuple[float | None, ...]
    """KL(steered ‖ unsteered) of the steered token's distribution, in nats; None behind the end."""
    loss: tuple[float | None, ...]
    """`-log p` of the steered token in the model without interventions, in nats; None behind the end."""


@dataclass(frozen=True)
class Steered:
    """A steered text, and what the model without interventions says of it."""

    text: str
    kl: tuple[float, ...]
    """KL(steered ‖ unsteered) at each of its tokens, both having read it up to there, in nats."""
    loss: tuple[float, ...]
    """`-log p` of each of its tokens in the model without interventions, in nats."""

    @property
    def mean_kl(self) -> float:
        """Nats a token."""
        return sum(self.kl) / len(self.kl)

    @property
    def mean_loss(self) -> float:
        """Nats a token."""
        return sum(self.loss) / len(self.loss)


@dataclass(frozen=True)
class Beside:
    """What a model writes after a prompt without interventions, and in each way of steering."""

    unsteered: str
    steered: tuple[Steered, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it, with the means."""
        means = [{"mean_kl": one.mean_kl, "mean_loss": one.mean_loss} for one in self.steered]
        rows = [{**asdict(one), **mean} for one, mean in zip(self.steered, means, strict=True)]
        return {"unsteered": self.unsteered, "steered": rows}


class _Row:
    """An intervention on one row of the batch."""

    def __init__(self, change: Intervention, row: int) -> None:
        self.change = change
        self.row = row

    def __call__(
        self, activations: Float[Tensor, "b s d"], reading: Reading
    ) -> Float[Tensor, "b s d"]:
        rows = slice(self.row, self.row + 1)
        one = Reading(reading.ids[rows], reading.mask[rows], reading.ordinary[rows], reading.prompt)
        changed = activations.clone()
        changed[rows] = self.change(activations[rows], one)
        return changed


class _Follow(LogitsProcessor):  # type: ignore[misc]  # transformers comes without types here
    """Gives every reading row the token of the row that it reads, and notes what the two make of it."""

    def __init__(self, draw: Draw | None) -> None:
        self.draw = draw
        self.kl: Float[Tensor, " n"] = torch.empty(0)
        self.loss: Float[Tensor, " n"] = torch.empty(0)

    def __call__(
        self, input_ids: Int64[Tensor, "b s"], scores: Float[Tensor, "b vocabulary"]
    ) -> Float[Tensor, "b vocabulary"]:
        chosen = (scores if self.draw is None else self.draw(input_ids, scores)).argmax(-1)
        chosen[2::2] = chosen[1::2]
        p, q = (scores[first::2].float().log_softmax(-1) for first in (1, 2))
        # where p is 0 it takes no part, also where a processor of the model's own left both at 0
        self.kl = torch.where(p > -torch.inf, p.exp() * (p - q), 0).sum(-1)
        self.loss = -q.gather(-1, chosen[1::2, None])[:, 0]
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen[:, None], 0)


def stream_beside(
    engine: Engine, prompt: Prompt, ways: Sequence[Sequence[Placed]], writing: Writing
) -> Stream[BesideStep]:
    """Writes after one prompt without interventions and in each of some ways, every text drawn with the same seed.

    Raises:
        UsageError: as for `continue_texts`.
    """
    lm = engine.lm
    (ids,) = encode_prompts(lm, [prompt])
    rows = [ids] * (1 + 2 * len(ways))
    prepare(lm, rows, writing, Event())  # what cannot be meant is told here, not in the thread
    placed = [
        Placed(each.hookpoint, _Row(each.change, 1 + 2 * way))
        for way, several in enumerate(ways)
        for each in several
    ]

    def work(tell: Callable[[BesideStep], None], stopped: Event) -> None:
        batch, config, ends = prepare(lm, rows, writing, stopped)
        seeds = [writing.seed] * len(rows)
        follow = _Follow(Draw(writing.temperature, seeds) if writing.temperature else None)
        texts = [Text(lm, ids) for _ in range(1 + len(ways))]
        told = [0] * len(texts)

        def step(tokens: list[int]) -> None:
            own = [0, *range(1, len(rows), 2)]
            lengths = [int(ends.lengths[row]) for row in own]
            goes_on = [length > before for length, before in zip(lengths, told, strict=True)]
            told[:] = lengths
            pieces = [
                text.add(tokens[row]) if on else ""
                for text, row, on in zip(texts, own, goes_on, strict=True)
            ]
            numbers = (
                tuple(
                    value if on else None
                    for value, on in zip(found.tolist(), goes_on[1:], strict=True)
                )
                for found in (follow.kl, follow.loss)
            )
            tell(BesideStep(pieces[0], tuple(pieces[1:]), *numbers))

        engine.generate(
            batch,
            config,
            placed,
            processors=LogitsProcessorList([follow]),
            stopping=StoppingCriteriaList([ends]),
            streamer=Told(step),
        )
        rest = [text.rest() for text in texts]
        if any(rest):
            nothing = (None,) * len(ways)
            tell(BesideStep(rest[0], tuple(rest[1:]), nothing, nothing))

    return Stream(work)


def gather(steps: Iterable[BesideStep], ways: int) -> Beside:
    """The whole of a stream."""
    found = list(steps)
    steered = tuple(
        Steered(
            "".join(step.steered[way] for step in found),
            tuple(kl for step in found if (kl := step.kl[way]) is not None),
            tuple(loss for step in found if (loss := step.loss[way]) is not None),
        )
        for way in range(ways)
    )
    return Beside("".join(step.unsteered for step in found), steered)
