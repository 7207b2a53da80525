"""The tab in which a text becomes a tree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from hsae_hub.demo import snippets, tree_page
from hsae_hub.demo.desk import MODEL, Desk, checked, code_boxes, page_html, picked, told
from hsae_hub.demo.view import COLOURS, TEXT_LIMIT, View
from hsae_hub.errors import HSAEError

_LABELS = {"feature": "Chosen feature", "child": "Strongest child", "unexplained": "Unexplained"}


class DecomposeTab:
    """Its parts, and what they do."""

    def __init__(self, desk: Desk, start: View) -> None:
        self.desk = desk
        with gr.Row(equal_height=True):
            self.text = gr.Textbox(
                start.text, label="Text", lines=2, max_length=TEXT_LIMIT, scale=8, elem_id="hs-text"
            )
            self.button = gr.Button("Decompose", variant="primary", scale=1, min_width=120)
        choices = [(_LABELS[colour], colour) for colour in COLOURS]
        self.colour = gr.Radio(choices, value=start.colour, label="Colour tokens by")
        self.page = page_html("hs-decompose")
        self.python, self.shell = code_boxes()
        self.outputs = [desk.view, self.page, desk.address, self.python, self.shell]

    def wire(self) -> None:
        """What happens on a click."""
        desk = self.desk
        gr.on(
            [self.button.click, self.text.submit],
            self.on_text,
            [desk.view, self.text],
            self.outputs,
            concurrency_id=MODEL,
            concurrency_limit=1,
            api_visibility="private",
        )
        self.colour.input(
            self.on_colour,
            [desk.view, self.colour],
            self.outputs,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        self.page.pick(
            self.on_pick,
            [desk.view],
            self.outputs,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )

    def on_text(self, view: View, words: str) -> list[Any]:
        """Another text: nothing in it is chosen yet."""
        try:
            return self.show(replace(view, text=checked(words), token=None, feature=None))
        except HSAEError as error:
            return [view, told(error), gr.skip(), gr.skip(), gr.skip()]

    def on_colour(self, view: View, colour: str) -> list[Any]:
        """Another meaning of the tints."""
        known = next((each for each in COLOURS if each == colour), view.colour)
        return self.show(replace(view, colour=known))

    def on_pick(self, view: View, event: gr.EventData) -> list[Any]:
        """A token, a feature, or what to do with it; the browser may send anything."""
        kind, _, value = picked(event)
        if kind == "tok" and value.isdecimal():
            view = replace(view, token=int(value), feature=None)
        elif kind == "f":
            view = replace(view, feature=value[:32])
        elif kind == "do" and value == "pin" and view.feature:
            others = tuple(pin for pin in view.pins if pin != view.feature)
            pins = others if view.feature in view.pins else (*others, view.feature)[-20:]
            view = replace(view, pins=pins)
        return self.show(view)

    def show(self, view: View) -> list[Any]:
        """Everything of this tab, for a view."""
        try:
            exhibit = self.desk.shelf.open(view.sae)
            looked = exhibit.look(view.text)
            view = tree_page.settle(view, looked)
            page = tree_page.page(exhibit, looked, view)
        except HSAEError as error:
            return [view, told(error), gr.skip(), gr.skip(), gr.skip()]
        return [view, page, view.query(), *snippets.decompose(view)]
