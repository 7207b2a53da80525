"""What one visitor looks at, and its address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args
from urllib.parse import urlencode

Colour = Literal["feature", "child", "unexplained"]
COLOURS: tuple[Colour, ...] = get_args(Colour)
TEXT_LIMIT = 4000
"""Characters of a text that is taken apart."""
_ID_LIMIT = 32


@dataclass(frozen=True)
class View:
    """An SAE, a text, and what is chosen in it. Frozen: each event makes the next one."""

    sae: str
    text: str
    token: int | None = None
    """Position in the text."""
    feature: str | None = None
    """`4121` or `4121/3`."""
    colour: Colour = "feature"
    pins: tuple[str, ...] = ()

    @classmethod
    def from_query(cls, query: Mapping[str, str], default: View) -> View:
        """The view that an address asks for; whatever is not understood is as in `default`."""
        token = query.get("tok", "")
        return replace(
            default,
            sae=query.get("sae", default.sae),
            text=query.get("text", default.text)[:TEXT_LIMIT],
            token=int(token) if token.isascii() and token.isdecimal() and len(token) < 7 else None,
            feature=query["f"][:_ID_LIMIT] if query.get("f") else None,
        )

    def query(self) -> str:
        """The address of this view, from its question mark on."""
        chosen = {"tok": None if self.token is None else str(self.token), "f": self.feature}
        known = {"sae": self.sae, "text": self.text, **chosen}
        return "?" + urlencode({name: value for name, value in known.items() if value})
