"""Text from strangers as text: tokens, labels and cards may hold anything."""

from __future__ import annotations

from html import escape

from hsae_hub.render.text import visible


def escaped(text: str) -> str:
    """A text as it stands in an element or a quoted attribute of HTML, control characters visible."""
    return escape(visible(text), quote=True)


def escaped_lines(text: str) -> str:
    """The same for a `<pre>`, its line breaks kept."""
    return "\n".join(escaped(line) for line in text.splitlines())
