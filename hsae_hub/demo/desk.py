"""What the tabs share: the server's shelf, the visitor's view, and how a handler fails."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import NamedTuple

import gradio as gr

from hsae_hub.demo.shelf import Shelf
from hsae_hub.demo.view import TEXT_LIMIT, View
from hsae_hub.errors import HSAEError, UsageError
from hsae_hub.render import escaped

MODEL = "model"
"""Queue of everything that runs the language model, one at a time."""
SESSION_LIMIT = 3600
"""Seconds that a view is kept after its visitor's last event."""


class Desk(NamedTuple):
    """Handed to every tab while the page is built."""

    shelf: Shelf
    view: gr.State
    address: gr.Textbox
    """Hidden; its text becomes the browser's address."""
    tabs: gr.Tabs
    can_pull: bool
    """Whether visitors may bring SAEs to this machine."""


def asset(name: str) -> str:
    """A style sheet or script of this package."""
    return (files("hsae_hub.demo") / name).read_text(encoding="utf-8")


def page_html(elem_id: str) -> gr.HTML:
    """A part of the page that this package draws itself; a click on its `data-pick` is the event `pick`."""
    return gr.HTML(elem_id=elem_id, js_on_load=asset("page.js"), apply_default_css=False)


def code_boxes() -> tuple[gr.Code, gr.Code]:
    """The same from Python and from a shell, folded away."""
    with gr.Accordion("Do this from code", open=False):
        return (
            gr.Code(language="python", label="Python", interactive=False),
            gr.Code(language="shell", label="Shell", interactive=False),
        )


def checked(words: str) -> str:
    """The text a visitor gave.

    Raises:
        UsageError: it is empty, or too long for a page.
    """
    if not words.strip():
        raise UsageError("there is no text to take apart", fix="type some")
    if len(words) > TEXT_LIMIT:
        raise UsageError(
            f"the text has {len(words):,} characters, a page takes {TEXT_LIMIT:,}",
            fix="hsae decompose REF --file FILE    takes any length",
        )
    return words


def told(error: HSAEError) -> str:
    """What went wrong, why, and what to do, as HTML."""
    why = f"<p>{escaped(error.why)}</p>" if error.why else ""
    fix = "".join(f"<pre>{escaped(line)}</pre>" for line in error.fix.splitlines())
    inner = (
        f'<div class="hs-pane hs-error" role="alert"><b>{escaped(str(error))}</b>{why}{fix}</div>'
    )
    return f'<div class="hs-page">{inner}</div>'


def drawn(draw: Callable[[View], str], view: View) -> str:
    """A page, or what kept it from being drawn."""
    try:
        return draw(view)
    except HSAEError as error:
        return told(error)


def picked(event: gr.EventData) -> tuple[str, str, str]:
    """What was clicked, as kind, colon and value; the browser may send anything."""
    return str(event._data.get("pick", ""))[:400].partition(":")
