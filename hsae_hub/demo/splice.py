"""The tab that reads what the model loses with the reconstruction in place, token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from hsae_hub.attach import SpliceReport, TokenLoss
from hsae_hub.demo import snippets
from hsae_hub.demo.desk import MODEL, Desk, checked, code_boxes, told
from hsae_hub.demo.view import TEXT_LIMIT, View
from hsae_hub.errors import HSAEError
from hsae_hub.render import StripToken, escaped, render_strip

_DEEPEST = 2.0
"""Nats at which a token's tint is full."""
_NAMES = {
    "ce_clean": "loss of the model as it is",
    "ce_spliced": "loss with the reconstruction in place",
    "ce_zero": "loss with zeros in place",
    "ce_mean": "loss with the mean activation in place",
    "ce_score": "CE score: 1 loses nothing, 0 is no better than zeros",
    "kl": "KL(clean ‖ spliced), nats",
    "explained_variance": "explained variance",
    "l0": "acts a token",
    "l0_parents": "parents a token",
    "l0_children": "children a token",
}


class SpliceTab:
    """Its parts, and what they do."""

    def __init__(self, desk: Desk, start: View) -> None:
        self.desk = desk
        with gr.Row(equal_height=True):
            self.text = gr.Textbox(
                start.text, label="Text", lines=2, max_length=TEXT_LIMIT, scale=8
            )
            self.button = gr.Button(
                "Measure", variant="primary", scale=1, min_width=120, elem_id="hs-measure"
            )
        self.page = gr.HTML(apply_default_css=False, elem_id="hs-spliced")
        self.python, self.shell = code_boxes()

    def wire(self) -> None:
        """What happens on a click."""
        gr.on(
            [self.button.click, self.text.submit],
            self.on_text,
            [self.desk.view, self.text],
            [self.page, self.python, self.shell],
            concurrency_id=MODEL,
            concurrency_limit=1,
            api_visibility="private",
        )

    def on_text(self, view: View, words: str) -> list[Any]:
        """The losses on a text."""
        try:
            lm = self.desk.shelf.open(view.sae).attached
            with lm.splice() as spliced:
                report = spliced.loss([checked(words)])
                tokens = spliced.token_losses(words)
        except HSAEError as error:
            return [told(error), gr.skip(), gr.skip()]
        return [page(report, tokens), *snippets.splice(replace(view, text=words))]


def page(report: SpliceReport, tokens: list[TokenLoss]) -> str:
    """A table of losses, and the text with every token's difference."""
    strip = render_strip(
        [
            StripToken(
                each.text,
                0.0 if each.difference is None else each.difference / _DEEPEST,
                "not predicted"
                if each.clean is None
                else f"loss {each.clean:.2f} clean, {each.spliced:.2f} spliced",
                special=each.clean is None,
            )
            for each in tokens
        ],
        chosen=None,
        hue="loss",
    )
    numbers = report.numbers()
    rows = "".join(
        f"<tr><th>{told_name}</th><td>{numbers[name]:.4f}</td></tr>"
        for name, told_name in _NAMES.items()
        if name in numbers
    )
    return (
        f'<div class="hs-page"><section class="hs-pane"><h2>{report.predictions:,} predictions</h2>'
        f'<table class="hs-table">{rows}</table></section><section class="hs-pane">'
        "<h2>Where the loss is</h2>"
        f'{strip}<p class="hs-note">Red tokens are harder to predict with the reconstruction, green ones easier; '
        f"the tint is full at {escaped(f'{_DEEPEST:g}')} nats.</p></section></div>"
    )
