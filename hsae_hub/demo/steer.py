"""The tab in which features are pushed, and the text streams beside the one without."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from hsae_hub.attach import Edit, SteeringSpec, parse_edits, read_steering, write_steering
from hsae_hub.demo import snippets
from hsae_hub.demo.desk import MODEL, Desk, checked, code_boxes, told
from hsae_hub.demo.steered_page import Way, page
from hsae_hub.demo.view import TEXT_LIMIT, View
from hsae_hub.errors import HSAEError, UsageError

ROWS = 4
SWEEP = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Multiples of the edits' own strengths."""
_SECONDS = 120
"""Longest time that one visitor holds the model."""
_MODES = [
    ("child alone (relative)", "relative"),
    ("parent + child (full)", "full"),
    ("swap for a sibling", "swap"),
    ("set its act", "set"),
    ("scale", "scale"),
    ("ablate", "ablate"),
    ("project out", "project_out"),
]
_GATES = [
    ("every token", "always"),
    ("where the parent fires", "parent"),
    ("where the feature fires", "feature"),
    ("the prompt", "prompt"),
    ("what is written", "generated"),
    ("after the words …", "after"),
    ("at positions …", "positions"),
]
_WITHOUT_STRENGTH = ("swap", "ablate", "project_out")


class _Row(NamedTuple):
    """The controls of one edit."""

    box: gr.Row
    feature: gr.Textbox
    mode: gr.Dropdown
    sibling: gr.Textbox
    strength: gr.Slider
    gate: gr.Dropdown
    words: gr.Textbox

    def inputs(self) -> list[Any]:
        return [self.feature, self.mode, self.sibling, self.strength, self.gate, self.words]


class SteerTab:
    """Its parts, and what they do."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        with gr.Row():
            self.prompt = gr.Textbox(
                "She was born in London",
                label="Prompt",
                lines=2,
                max_length=TEXT_LIMIT,
                scale=4,
                elem_id="hs-prompt",
            )
            self.new = gr.Slider(8, 256, 48, step=8, label="New tokens", scale=2)
            self.temperature = gr.Slider(
                0, 2, 0, step=0.1, label="Temperature", info="0 takes the likeliest token", scale=2
            )
            self.seed = gr.Number(0, label="Seed", precision=0, scale=1, min_width=90)
        self.rows = [_edit_row(number) for number in range(ROWS)]
        with gr.Row():
            self.go = gr.Button("Generate", variant="primary", elem_id="hs-generate")
            self.stop = gr.Button("Stop", elem_id="hs-stop")
            self.sweep = gr.Button("Sweep the strength", elem_id="hs-sweep")
            self.more = gr.Button("Another edit", elem_id="hs-more")
        self.page = gr.HTML(apply_default_css=False, elem_id="hs-steered")
        with gr.Row():
            self.save = gr.DownloadButton("Save as steer.yaml", size="sm")
            self.load = gr.UploadButton(
                "Load a steering spec", file_types=[".yaml", ".yml", ".json"], size="sm"
            )
        self.shown = gr.State(1)
        self.python, self.shell = code_boxes()

    def wire(self) -> None:
        """What happens on a click."""
        view = self.desk.view
        edits = [each for row in self.rows for each in row.inputs()]
        inputs = [view, self.prompt, self.new, self.temperature, self.seed, *edits]
        outputs = [self.page, self.python, self.shell]
        running = [
            button.click(
                run,
                inputs,
                outputs,
                concurrency_id=MODEL,
                concurrency_limit=1,
                time_limit=_SECONDS,
                show_progress="hidden",
                api_visibility="private",
            )
            for button, run in ((self.go, self.on_generate), (self.sweep, self.on_sweep))
        ]
        self.stop.click(None, None, None, cancels=running, queue=False, api_visibility="private")
        self.more.click(
            self.on_more,
            self.shown,
            [self.shown, *(row.box for row in self.rows)],
            queue=False,
            api_visibility="private",
        )
        self.save.click(
            self.on_save, [view, *edits], self.save, queue=False, api_visibility="private"
        )
        filled = [self.page, self.shown, *(row.box for row in self.rows), *edits]
        self.load.upload(self.on_load, self.load, filled, queue=False, api_visibility="private")

    def on_generate(
        self, view: View, prompt: str, new: float, temperature: float, seed: float, *edits: Any
    ) -> Iterator[list[Any]]:
        """Streams both texts; closing the tab or Stop ends it, and leaves nothing on the model."""
        yield from self._stream(view, prompt, (1.0,), new, temperature, seed, edits)

    def on_sweep(
        self, view: View, prompt: str, new: float, temperature: float, seed: float, *edits: Any
    ) -> Iterator[list[Any]]:
        """Streams one text for each multiple of the strengths."""
        yield from self._stream(view, prompt, SWEEP[1:], new, temperature, seed, edits)

    def _stream(
        self,
        view: View,
        prompt: str,
        factors: tuple[float, ...],
        new: float,
        temperature: float,
        seed: float,
        edits: tuple[Any, ...],
    ) -> Iterator[list[Any]]:
        try:
            spec = spec_of(edits, view.sae)
            lm = self.desk.shelf.open(view.sae).attached
            many = len(factors) > 1
            ways = [Way(f"× {factor:g}" if many else str_of(spec)) for factor in factors]
            unsteered = ""
            code = snippets.steer(view, prompt, spec, int(new), temperature, int(seed))
            steps = lm.stream_beside(
                checked(prompt),
                [spec.scaled(factor) if many else spec for factor in factors],
                max_new_tokens=int(new),
                temperature=float(temperature),
                seed=int(seed),
            )
            with steps:
                for step in steps:
                    unsteered += step.unsteered
                    for i, way in enumerate(ways):
                        way.add(step.steered[i], step.kl[i], step.loss[i])
                    yield [page(prompt, unsteered, ways), *code]
        except HSAEError as error:
            yield [told(error), gr.skip(), gr.skip()]

    def on_open(self, view: View, feature: str) -> str:
        """Takes over the feature that was chosen on another tab, unless one was typed."""
        return feature or view.feature or ""

    def on_more(self, shown: int) -> list[Any]:
        """Shows the controls of one more edit."""
        shown = min(shown + 1, ROWS)
        return [shown, *(gr.Row(visible=number < shown) for number in range(ROWS))]

    def on_save(self, view: View, *edits: Any) -> Any:
        """The edits as a file that `hsae steer --spec` takes."""
        try:
            spec = spec_of(edits, view.sae)
        except HSAEError as error:
            raise gr.Error(str(error), print_exception=False) from None
        path = Path(tempfile.mkdtemp()) / "steer.yaml"
        write_steering(spec, path)
        return gr.DownloadButton(value=str(path))

    def on_load(self, path: str) -> list[Any]:
        """Fills the controls from a file; edits that they cannot show are refused."""
        same = [gr.skip()] * (1 + ROWS + 6 * ROWS)
        try:
            spec = read_steering(path)
            rows = [row_of(edit) for edit in spec.edits]
            if len(rows) > ROWS:
                raise UsageError(f"{len(rows)} edits, this page has room for {ROWS}")
        except HSAEError as error:
            return [told(error), *same]
        values = [value for row in rows for value in row]
        values += [gr.skip()] * (6 * (ROWS - len(rows)))
        boxes = [gr.Row(visible=number < len(rows)) for number in range(ROWS)]
        return ["", len(rows), *boxes, *values]


def _edit_row(number: int) -> _Row:
    with gr.Row(visible=number == 0) as box:
        feature = gr.Textbox(
            label="Feature", placeholder="4121 or 4121/3", scale=2, min_width=110, max_length=32
        )
        mode = gr.Dropdown(_MODES, value="full", label="What is done", scale=3, min_width=160)
        sibling = gr.Textbox(
            label="Sibling", placeholder="for swap", scale=1, min_width=90, max_length=32
        )
        strength = gr.Slider(
            -3, 3, 0.5, step=0.1, label="Strength", info="× its 99.9th-percentile act", scale=3
        )
        gate = gr.Dropdown(_GATES, value="always", label="Where", scale=3, min_width=160)
        words = gr.Textbox(label="Words or positions", scale=2, min_width=110, max_length=200)
    return _Row(box, feature, mode, sibling, strength, gate, words)


def spec_of(edits: tuple[Any, ...], sae: str) -> SteeringSpec:
    """The spec that the controls say; rows without a feature are left out.

    Raises:
        UsageError: no row has one, or an edit cannot be meant.
    """
    found: list[Edit] = []
    for start in range(0, len(edits), 6):
        feature, mode, sibling, strength, gate, words = edits[start : start + 6]
        if not str(feature or "").strip():
            continue
        name = str(feature).strip()
        text = name if mode in _WITHOUT_STRENGTH else f"{name}={strength}"
        kind = f"swap:{str(sibling).strip()}" if mode == "swap" else str(mode)
        where = f"{gate}:{words}" if gate in ("after", "positions") else str(gate)
        found += parse_edits(text, mode=kind, gate=where).edits
    if not found:
        raise UsageError("no feature to steer", fix="type one, such as 12 or 12/3")
    return SteeringSpec(sae=sae, edits=tuple(found))


def row_of(edit: Any) -> list[Any]:
    """The controls' values for an edit.

    Raises:
        UsageError: a direction, raw units, or several conditions at once.
    """
    gate = edit.gate.model_dump(exclude_none=True)
    if edit.feature is None or edit.units != "p999" or len(gate) > 1:
        raise UsageError(
            f"{edit} cannot be shown here",
            why="a direction, raw units or several conditions",
            fix="hsae steer REF PROMPT --spec FILE",
        )
    name, value = next(iter(gate.items()), ("", ""))
    where = {"": "always", "fires": value, "part": value}.get(name, name)
    words = ",".join(map(str, value)) if name == "positions" else value if name == "after" else ""
    mode = "swap" if edit.sibling else edit.mode
    strength = 1.0 if edit.strength is None else edit.strength
    return [edit.feature, mode, edit.sibling or "", strength, where, words]


def str_of(spec: SteeringSpec) -> str:
    """Its edits in a line."""
    return ", ".join(str(edit) for edit in spec.edits)
