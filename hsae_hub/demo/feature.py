"""The tab of one feature: where it stands in the tree, when it acts, what it pushes, and which are alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from hsae_hub.demo import snippets, tree_page
from hsae_hub.demo.desk import MODEL, Desk, checked, code_boxes, page_html, picked, told
from hsae_hub.demo.feature_page import SHOWN, found_page, page, tested
from hsae_hub.demo.view import TEXT_LIMIT, View
from hsae_hub.errors import HSAEError


class FeatureTab:
    """Its parts, and what they do."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        with gr.Row():
            self.name = gr.Textbox(
                label="Feature", placeholder="4121 or 4121/3", max_length=32, scale=2
            )
            self.query = gr.Textbox(
                label="Search labels, tokens and contexts",
                placeholder="king, river …",
                max_length=100,
                scale=3,
            )
            self.shown = gr.Radio(list(SHOWN), value=next(iter(SHOWN)), label="Show", scale=4)
        self.page = page_html("hs-feature")
        with gr.Row(equal_height=True):
            self.text = gr.Textbox(
                label="Test it on a text", lines=2, max_length=TEXT_LIMIT, scale=8
            )
            self.test = gr.Button("Test", scale=1, min_width=120, elem_id="hs-test")
        self.tested = gr.HTML(apply_default_css=False, elem_id="hs-tested")
        self.python, self.shell = code_boxes()
        self.outputs = [desk.view, self.name, self.page, desk.address, self.python, self.shell]

    def wire(self) -> None:
        """What happens on a click."""
        view = self.desk.view
        quiet: dict[str, Any] = {
            "queue": False,
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        self.name.submit(self.on_name, [view, self.name, self.shown], self.outputs, **quiet)
        self.shown.input(self.show, [view, self.shown], self.outputs, **quiet)
        self.page.pick(self.on_pick, [view, self.shown], self.outputs, **quiet)
        self.query.submit(self.on_query, [view, self.query], self.page, **quiet)
        gr.on(
            [self.test.click, self.text.submit],
            self.on_test,
            [view, self.text],
            self.tested,
            concurrency_id=MODEL,
            concurrency_limit=1,
            api_visibility="private",
        )

    def on_name(self, view: View, name: str, shown: str) -> list[Any]:
        """Another feature, typed."""
        return self.show(replace(view, feature=name.strip()[:32] or None), shown)

    def on_pick(self, view: View, shown: str, event: gr.EventData) -> list[Any]:
        """Another feature, clicked."""
        kind, _, value = picked(event)
        return self.on_name(view, value, shown) if kind == "f" else [gr.skip()] * len(self.outputs)

    def on_query(self, view: View, query: str) -> str:
        """Features whose label, tokens or contexts hold the words."""
        try:
            return found_page(self.desk.shelf.open(view.sae), query)
        except HSAEError as error:
            return told(error)

    def on_test(self, view: View, words: str) -> str:
        """The feature's act on every token of a text."""
        try:
            looked = self.desk.shelf.open(view.sae).look(checked(words))
        except HSAEError as error:
            return told(error)
        return tested(
            looked.tree, view.feature, tree_page.acts_of(looked.tree.tokens, view.feature)
        )

    def show(self, view: View, shown: str) -> list[Any]:
        """Everything of this tab, for a view."""
        try:
            exhibit = self.desk.shelf.open(view.sae)
            view = view if view.feature else replace(view, feature=exhibit.first_feature())
            drawn = page(exhibit, view, shown)
        except HSAEError as error:
            return [view, view.feature, told(error), *[gr.skip()] * 3]
        return [view, view.feature, drawn, view.query(), *snippets.feature(view)]
