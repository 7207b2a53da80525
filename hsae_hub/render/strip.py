"""A text as a strip of tokens, each tinted by a number and each a button."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from hsae_hub.render.escaping import escaped

Hue = Literal["parent", "child", "unexplained", "loss"]


class StripToken(NamedTuple):
    """One token of a strip."""

    text: str
    heat: float
    """Depth of its tint, 0 to 1; below 0 it takes the other colour of its hue."""
    told: str
    """What the tint stands for, in words: shown on hover and read aloud."""
    special: bool = False
    """BOS, EOS or the like, which cannot be chosen."""


def render_strip(tokens: Sequence[StripToken], *, chosen: int | None, hue: Hue) -> str:
    """The strip; the button of token `i` carries `data-pick="tok:i"`, and arrow keys move between them."""
    stop = chosen if chosen is not None else _first(tokens)
    inner = "".join(
        _token(i, token, chosen=i == chosen, stop=i == stop) for i, token in enumerate(tokens)
    )
    return (
        f'<div class="hs-strip hs-{hue}" role="group" aria-label="Tokens of the text">{inner}</div>'
    )


def _first(tokens: Sequence[StripToken]) -> int | None:
    return next((i for i, token in enumerate(tokens) if not token.special), None)


def _token(i: int, token: StripToken, *, chosen: bool, stop: bool) -> str:
    shown = escaped(token.text) if token.text.strip() else escaped(token.text) or "&nbsp;"
    after = "<br>" if "\n" in token.text else ""
    if token.special:
        return f'<span class="hs-tok hs-special">{shown}</span>{after}'
    sign = " hs-less" if token.heat < 0 else ""
    return (
        f'<button type="button" class="hs-tok{sign}" data-pick="tok:{i}" data-key="tok:{i}" '
        f'aria-pressed="{"true" if chosen else "false"}" tabindex="{0 if stop else -1}" '
        f'style="--heat:{min(abs(token.heat), 1):.3f}" title="{escaped(token.told)}">{shown}</button>{after}'
    )
