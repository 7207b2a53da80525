"""Steered texts beside the one without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hsae_hub.render import StripToken, escaped, render_strip

_DEEPEST = 4.0
"""Nats of KL at which a token's tint is full."""


@dataclass
class Way:
    """One way of steering: what it has written so far."""

    title: str
    tokens: list[StripToken] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)

    def add(self, piece: str, kl: float | None, loss: float | None) -> None:
        """Takes in a step; a text that has ended gets nothing."""
        if kl is not None and loss is not None:
            self.kl.append(kl)
            self.loss.append(loss)
        if piece:
            heat = 0.0 if kl is None else min(kl / _DEEPEST, 1.0)
            said = "" if kl is None else f"KL {kl:.2f}, loss unsteered {loss:.2f} nats"
            self.tokens.append(StripToken(piece, heat, said))


def page(prompt: str, unsteered: str, ways: Sequence[Way]) -> str:
    """The unsteered text, then every steered one, its tokens tinted by their KL."""
    said = f'<p class="hs-text">{_prompt(prompt)}{escaped(unsteered)}</p>'
    plain = f'<section class="hs-pane"><h2>Unsteered</h2>{said}</section>'
    panes = "".join(_pane(prompt, way) for way in ways)
    return f'<div class="hs-page"><div class="hs-grid">{plain}{panes}</div></div>'


def _pane(prompt: str, way: Way) -> str:
    note = ""
    if way.kl:
        mean_kl, mean_loss = sum(way.kl) / len(way.kl), sum(way.loss) / len(way.loss)
        note = (
            f'<p class="hs-note">KL(steered ‖ unsteered) {mean_kl:.2f} nats a token · '
            f"loss of this text unsteered {mean_loss:.2f} nats a token</p>"
        )
    strip = render_strip(way.tokens, chosen=None, hue="loss") if way.tokens else ""
    return (
        f'<section class="hs-pane"><h2>{escaped(way.title)}</h2><p class="hs-text">{_prompt(prompt)}</p>'
        f"{strip}{note}</section>"
    )


def _prompt(prompt: str) -> str:
    return f'<span class="hs-given">{escaped(prompt)}</span>'
