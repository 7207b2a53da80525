"""The tab that lays a flat SAE beside the tree, on one token."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hsae_hub.demo import snippets
from hsae_hub.demo.desk import Desk, code_boxes, told
from hsae_hub.demo.tree_page import settle
from hsae_hub.demo.view import View
from hsae_hub.errors import HSAEError, NotFoundError
from hsae_hub.features import compare_on


class CompareTab:
    """Its parts, and what they do."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.page = gr.HTML(apply_default_css=False, elem_id="hs-compare")
        self.python, self.shell = code_boxes()
        self.outputs = [self.page, self.python, self.shell]

    def show(self, view: View) -> list[Any]:
        """The chosen token of the text, by both."""
        try:
            exhibit = self.desk.shelf.open(view.sae)
            if exhibit.baseline is None:
                raise NotFoundError(
                    f"{view.sae} came without a flat SAE of the same data",
                    fix="hsae compare A B TEXT    compares any two",
                )
            view = settle(view, exhibit.look(view.text))
            found = compare_on(
                exhibit.baseline,
                exhibit.attached,
                view.text,
                token=-1 if view.token is None else view.token,
                labels=({}, exhibit.labels()),
            )
        except HSAEError as error:
            return [told(error), gr.skip(), gr.skip()]
        return [
            f'<div class="hs-page"><div class="hs-pane">{found.to_html()}</div></div>',
            *snippets.compare(view, exhibit.baseline_ref),
        ]
