"""The tab of SAEs: what is here, what the hub has, and bringing one over."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hsae_hub.artifact import read_artifact
from hsae_hub.demo import hub_page
from hsae_hub.demo.desk import Desk, page_html, picked, told
from hsae_hub.demo.pulling import Pulls
from hsae_hub.demo.view import View
from hsae_hub.errors import HSAEError, NotFoundError
from hsae_hub.hub import Ref
from hsae_hub.render import escaped, escaped_lines

_CARD_LIMIT = 200_000
_FOUND = 50


class HubTab:
    """Its parts, and what they do."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.pulls = Pulls(desk.shelf.hub)
        self.running = page_html("hs-pulls")
        self.here = page_html("hs-here")
        with gr.Row():
            self.query = gr.Textbox(
                label="Search the hub",
                placeholder="a name; empty lists all",
                max_length=100,
                scale=6,
            )
            self.search = gr.Button("Search", scale=1, min_width=100)
        self.remote = page_html("hs-remote")
        self.card = gr.HTML(apply_default_css=False, elem_id="hs-card-page")
        self.timer = gr.Timer(1.0)

    def wire(self) -> None:
        """What happens on a click; opening an SAE is a matter of the whole page."""
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
        view = self.desk.view
        gr.on(
            [self.search.click, self.query.submit],
            self.on_search,
            self.query,
            self.remote,
            api_visibility="private",
        )
        self.remote.pick(self.on_pull, None, self.running, api_visibility="private", **quiet)
        self.here.pick(self.on_card, None, self.card, api_visibility="private")
        self.timer.tick(
            self.on_tick, view, [self.running, self.here], api_visibility="private", **quiet
        )

    def on_tick(self, view: View) -> list[str]:
        """The pulls as they stand, and what is here now."""
        return [hub_page.pulls(list(self.pulls.jobs.values())), self.show(view)]

    def show(self, view: View) -> str:
        """What is on this machine."""
        shelf = self.desk.shelf
        return (
            f'<div class="hs-page">{hub_page.here(shelf.offered, shelf.hub.ls(), view.sae)}</div>'
        )

    def on_search(self, words: str) -> str:
        """What the hub has whose name holds the words."""
        try:
            found = self.desk.shelf.hub.search(words.strip(), limit=_FOUND)
        except HSAEError as error:
            return told(error)
        return f'<div class="hs-page">{hub_page.remote(found, can_pull=self.desk.can_pull)}</div>'

    def on_pull(self, event: gr.EventData) -> str:
        """Begins a pull, where visitors may."""
        kind, _, ref = picked(event)
        try:
            if kind == "pull" and self.desk.can_pull:
                self.pulls.start(str(Ref.parse(ref)))
        except HSAEError as error:
            return told(error)
        return f'<div class="hs-page">{hub_page.pulls(list(self.pulls.jobs.values()))}</div>'

    def on_card(self, event: gr.EventData) -> Any:
        """The card of an SAE that is here, or its hashes checked again."""
        kind, _, ref = picked(event)
        if kind not in ("card", "verify"):
            return gr.skip()
        shelf = self.desk.shelf
        try:
            if ref not in shelf.refs():
                raise NotFoundError(f"{ref!r} is not here")
            folder = shelf.folder(ref)
            if kind == "card":
                path = folder / "README.md"
                words = path.read_text(encoding="utf-8")[:_CARD_LIMIT] if path.is_file() else ""
                said = words or "it came without a card"
            else:
                config = read_artifact(folder, verify=True, ref=ref).config
                files = [f"{info.sha256}  {name}" for name, info in config.files.items()]
                said = (
                    "every file is what its config says, and every weight is finite\n"
                    + "\n".join(files)
                )
        except HSAEError as error:
            return told(error)
        return (
            f'<div class="hs-page"><section class="hs-pane"><h2>{escaped(ref)}</h2>'
            f"<pre>{escaped_lines(said)}</pre></section></div>"
        )
