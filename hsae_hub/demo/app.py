"""The page: its tabs, and how an address becomes a view and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from hsae_hub.demo.absorption import AbsorptionTab
from hsae_hub.demo.api import endpoints
from hsae_hub.demo.compare import CompareTab
from hsae_hub.demo.decompose import DecomposeTab
from hsae_hub.demo.desk import MODEL, SESSION_LIMIT, Desk, picked
from hsae_hub.demo.feature import FeatureTab
from hsae_hub.demo.hub import HubTab
from hsae_hub.demo.shelf import Shelf
from hsae_hub.demo.splice import SpliceTab
from hsae_hub.demo.steer import SteerTab
from hsae_hub.demo.view import View
from hsae_hub.errors import HSAEError
from hsae_hub.render import escaped

EXAMPLE = "She was born in London in 1923 and studied physics at the University of Cambridge."
_GO = "(query) => { if (query) window.history.replaceState(null, '', query); }"


def build(shelf: Shelf, *, can_pull: bool) -> gr.Blocks:
    """The whole page, not yet served."""
    start = View(shelf.start(), EXAMPLE)
    with gr.Blocks(title="hsae", analytics_enabled=False) as blocks:
        view = gr.State(start, time_to_live=SESSION_LIMIT)
        address = gr.Textbox(visible="hidden", elem_id="hs-address", show_label=False)
        head = gr.HTML(apply_default_css=False, elem_id="hs-head")
        with gr.Tabs(elem_id="hs-tabs") as tabs:
            desk = Desk(shelf, view, address, tabs, can_pull)
            with gr.Tab("Decompose", id="decompose"):
                tree = DecomposeTab(desk, start)
            with gr.Tab("Feature", id="feature") as feature_tab:
                feature = FeatureTab(desk)
            with gr.Tab("Compare", id="compare") as compare_tab:
                compare = CompareTab(desk)
            with gr.Tab("Steer", id="steer") as steer_tab:
                steer = SteerTab(desk)
            with gr.Tab("Splice", id="splice"):
                splice = SpliceTab(desk, start)
            with gr.Tab("Absorption", id="absorption") as absorption_tab:
                absorption = AbsorptionTab(desk)
            with gr.Tab("Hub", id="hub"):
                hub = HubTab(desk)
        for tab in (tree, feature, steer, splice, hub):
            tab.wire()
        address.change(None, address, None, js=_GO, api_visibility="private")
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        feature_tab.select(
            feature.show, [view, feature.shown], feature.outputs, queue=False, **quiet
        )
        compare_tab.select(
            compare.show, view, compare.outputs, concurrency_id=MODEL, concurrency_limit=1, **quiet
        )
        steered = steer.rows[0].feature
        steer_tab.select(steer.on_open, [view, steered], steered, queue=False, **quiet)
        absorption_tab.select(absorption.show, view, absorption.outputs, queue=False, **quiet)

        def follow(now: View, event: gr.EventData) -> list[Any]:
            kind, _, what = picked(event)
            if kind == "do" and what == "steer":
                return [gr.Tabs(selected="steer"), now.feature]
            if kind == "do" and what == "open":
                return [gr.Tabs(selected="feature"), gr.skip()]
            return [gr.skip(), gr.skip()]

        tree.page.pick(follow, view, [tabs, steered], queue=False, **quiet)

        def follow_letter(now: View, event: gr.EventData) -> list[Any]:
            kind, _, what = picked(event)
            if kind != "f":
                return [gr.skip(), gr.skip()]
            return [replace(now, feature=what[:32]), gr.Tabs(selected="feature")]

        absorption.page.pick(follow_letter, view, [view, tabs], queue=False, **quiet)
        endpoints(shelf)

        def restore(request: gr.Request) -> list[Any]:
            asked = View.from_query(dict(request.query_params), start)
            return [_headline(shelf, asked), asked.text, *tree.show(asked)]

        def turn_to(now: View, event: gr.EventData) -> list[Any]:
            kind, _, ref = picked(event)
            if kind != "sae":
                return [gr.skip()] * (2 + len(tree.outputs))
            other = replace(now, sae=ref, token=None, feature=None, pins=())
            return [_headline(shelf, other), gr.Tabs(selected="decompose"), *tree.show(other)]

        hub.here.pick(turn_to, view, [head, tabs, *tree.outputs], api_visibility="private")
        blocks.load(
            restore,
            None,
            [head, tree.text, *tree.outputs],
            api_visibility="private",
            show_progress="hidden",
        )
    return blocks


def _headline(shelf: Shelf, view: View) -> str:
    try:
        told = shelf.open(view.sae).headline()
    except HSAEError:
        told = view.sae
    return f'<div class="hs-page hs-head"><h1>hsae</h1><span>{escaped(told)}</span></div>'
