"""Where in a text the loss is that a reconstruction costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from hsae_hub.attach.batches import pad_left
from hsae_hub.attach.decomposing import token_texts
from hsae_hub.attach.engine import Engine
from hsae_hub.attach.losses import cross_entropy, kl_divergence, predictions
from hsae_hub.attach.running import Placed


class TokenLoss(NamedTuple):
    """One token of a text; None where it was not predicted, or not from an ordinary token."""

    text: str
    clean: float | None = None
    """`-log p` by the model as it is, in nats."""
    spliced: float | None = None
    """`-log p` with everything in place."""
    kl: float | None = None
    """KL(clean ‖ spliced) of the distributions that predict it, in nats."""

    @property
    def difference(self) -> float | None:
        """What the interventions cost on this token, in nats; below 0 they help."""
        if self.clean is None or self.spliced is None:
            return None
        return self.spliced - self.clean


@torch.no_grad()
def token_losses(engine: Engine, ids: Sequence[int], placed: Sequence[Placed]) -> list[TokenLoss]:
    """The losses of one text, token by token: two forwards."""
    batch = pad_left(engine.lm, [list(ids)])
    clean, spliced = predictions(engine, batch, []), predictions(engine, batch, placed)
    numbers = (
        cross_entropy(clean),
        cross_entropy(spliced),
        kl_divergence(clean.logits, spliced.logits),
    )
    by_target = {
        int(column) + 1: tuple(values)
        for column, *values in zip(
            clean.columns.tolist(), *(n.tolist() for n in numbers), strict=True
        )
    }
    return [
        TokenLoss(text, *by_target.get(position, ()))
        for position, text in enumerate(token_texts(engine.lm, ids))
    ]
