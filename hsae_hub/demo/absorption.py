"""The tab that says how far a feature takes over from a more general one: first letters, by Chanin et al. 2024."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from hsae_hub.artifact import REPORTS
from hsae_hub.demo import snippets
from hsae_hub.demo.desk import Desk, code_boxes, page_html, told
from hsae_hub.demo.exhibit import Exhibit
from hsae_hub.demo.view import View
from hsae_hub.errors import CorruptError, HSAEError
from hsae_hub.render import escaped

_LIMIT = 1 << 22
_NAMES = {
    "absorption_fraction": "absorption, share of the letter's direction",
    "full_absorption": "words fully absorbed",
    "split_latents": "latents a letter is split over",
    "one_latent_f1": "F1 of one latent",
    "letters": "letters that the probe knows",
}


class AbsorptionTab:
    """Its parts, and what they do."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.page = page_html("hs-absorption")
        self.python, self.shell = code_boxes()
        self.outputs = [self.page, self.python, self.shell]

    def show(self, view: View) -> list[Any]:
        """What `hsae eval --on absorption` measured."""
        try:
            drawn = page(self.desk.shelf.open(view.sae))
        except HSAEError as error:
            return [told(error), gr.skip(), gr.skip()]
        return [drawn, *snippets.absorption(view)]


def page(exhibit: Exhibit) -> str:
    """Overall figures of the tree, its parents alone and the flat SAE, then letter by letter.

    Raises:
        CorruptError: the report cannot be read.
    """
    path = exhibit.folder / REPORTS / "absorption.json"
    if not path.is_file():
        note = "It was not measured. The command under “Do this from code” measures it."
        return f'<div class="hs-page"><section class="hs-pane"><p>{note}</p></section></div>'
    try:
        if path.stat().st_size > _LIMIT:
            raise ValueError("too large")
        report = json.loads(path.read_text(encoding="utf-8"))
        inner = _overall(report) + _letters(report)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path} cannot be read: {error}") from None
    return f'<div class="hs-page">{inner}</div>'


def _overall(report: dict[str, Any]) -> str:
    columns = {"all latents": ("", report["results"])}
    if any(each["name"].endswith("_parents") for each in report["results"]):
        columns["parents alone"] = ("_parents", report["results"])
    for name, other in report.get("beside", {}).items():
        columns[f"{name}, flat"] = ("", other["results"])
    heads = "".join(f"<th>{escaped(name)}</th>" for name in columns)
    rows = "".join(
        f"<tr><td>{escaped(said)}</td>"
        + "".join(f"<td>{_cell(results, name + view)}</td>" for view, results in columns.values())
        + "</tr>"
        for name, said in _NAMES.items()
    )
    return (
        '<section class="hs-pane"><h2>First letters</h2><table class="hs-table">'
        f"<tr><td></td>{heads}</tr>{rows}</table>"
        f'<p class="hs-note">{escaped("; ".join(map(str, report["data"])))}</p>{_unknown(report)}</section>'
    )


def _unknown(report: dict[str, Any]) -> str:
    known = next((each["value"] for each in report["results"] if each["name"] == "letters"), 0)
    said = "No letter can be read from the activations themselves (F1 above 0.6): nothing can be absorbed."
    return "" if known else f'<p class="hs-note">{said}</p>'


def _cell(results: list[dict[str, Any]], name: str) -> str:
    found = next((each for each in results if each["name"] == name), None)
    if found is None:
        return ""
    low, high = found.get("low"), found.get("high")
    interval = "" if low is None or high is None else f" [{float(low):.3f}, {float(high):.3f}]"
    return f"{float(found['value']):.3f}{interval}"


def _letters(report: dict[str, Any]) -> str:
    flat = next(iter(report.get("beside", {}).values()), None)
    theirs = flat["details"]["letters"]["all"] if flat else {}
    rows = "".join(
        f"<tr><td><b>{escaped(letter)}</b></td><td>{float(one['probe_f1']):.2f}</td><td>{float(one['one_latent_f1']):.2f}</td>"
        f"<td>{_links(one['latents'])}</td><td>{_share(one)}</td><td>{_share(theirs.get(letter))}</td></tr>"
        for letter, one in report["details"]["letters"]["all"].items()
    )
    head = (
        "<tr><td>letter</td><td>probe F1</td><td>one latent F1</td><td>latents of the letter</td>"
    )
    last = "<td>flat SAE</td>" if flat else "<td></td>"
    return (
        f'<section class="hs-pane"><h2>Letter by letter</h2><table class="hs-table">{head}<td>absorbed</td>{last}</tr>'
        f"{rows}</table></section>"
    )


def _links(latents: list[str]) -> str:
    return " ".join(
        f'<button type="button" class="hs-link" data-pick="f:{escaped(name)}">{escaped(name)}</button>'
        for name in latents
    )


def _share(one: dict[str, Any] | None) -> str:
    return "" if one is None else f"{float(one['absorption_fraction'] or 0):.1%}"
