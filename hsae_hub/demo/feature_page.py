"""What the tab of one feature draws."""

from __future__ import annotations

from collections.abc import Callable

from hsae_hub.attach import Decomposition
from hsae_hub.demo.cards import plain_page
from hsae_hub.demo.exhibit import Exhibit
from hsae_hub.demo.view import View
from hsae_hub.errors import NotFoundError
from hsae_hub.features.pages import hits_page
from hsae_hub.render import (
    Contexts,
    Histogram,
    Page,
    Pairs,
    Section,
    StripToken,
    Tiles,
    escaped,
    page_html,
    render_strip,
)


def _is_logits(section: Section) -> bool:
    return isinstance(section, Pairs) and section.title in ("pushes toward", "away from")


SHOWN: dict[str, Callable[[Section], bool]] = {
    "children": lambda section: isinstance(section, Tiles),
    "examples": lambda section: isinstance(section, Contexts),
    "logits": lambda section: isinstance(section, Histogram) or _is_logits(section),
    "similar": lambda section: isinstance(section, Pairs) and not _is_logits(section),
}
"""The views of a feature, and which sections each of them holds."""


def page(exhibit: Exhibit, view: View, shown: str) -> str:
    """One view of a feature.

    Raises:
        NotFoundError: the SAE has no such feature.
    """
    if exhibit.index is None:
        inner = _pane(plain_page(exhibit, str(view.feature)))
        note = "Its examples, logits and neighbours come with an index: hsae index REF --data FILE"
        return f'<div class="hs-page">{inner}<p class="hs-note">{note}</p></div>'
    whole = exhibit.index.feature(str(view.feature)).to_page()
    holds = SHOWN.get(shown, SHOWN["children"])
    sections = tuple(section for section in whole.sections if holds(section))
    return f'<div class="hs-page">{_pane(whole._replace(sections=sections))}{_pins(view)}</div>'


def found_page(exhibit: Exhibit, query: str) -> str:
    """Features found by label, then by token, then by context.

    Raises:
        NotFoundError: this SAE came without an index.
    """
    if exhibit.index is None:
        raise NotFoundError(
            f"{exhibit.ref} came without a feature index",
            fix=f"hsae index {exhibit.ref} --data FILE",
        )
    words = query.strip()
    pages = (
        hits_page(words, by, exhibit.index.find(words, by=by)) for by in ("label", "token", "text")
    )
    drawn = [_pane(page) for page in pages if page.sections] if words else []
    inner = "".join(drawn) or '<p class="hs-note">Nothing was found.</p>'
    return f'<div class="hs-page">{inner}</div>'


def tested(tree: Decomposition, feature: str | None, acts: list[float]) -> str:
    """A text tinted by one feature's acts."""
    most = max([abs(act) for act in acts], default=0) or 1.0
    tokens = [
        StripToken(token.text, act / most, f"{feature}: {act:.2f}", token.special)
        for token, act in zip(tree.tokens, acts, strict=True)
    ]
    hue = "child" if "/" in (feature or "") else "parent"
    said = f"{feature} acts on {sum(act != 0 for act in acts)} of {len(acts)} tokens"
    strip = render_strip(tokens, chosen=None, hue=hue)  # type: ignore[arg-type]
    return f'<div class="hs-page">{strip}<p class="hs-note">{escaped(said)}</p></div>'


def _pane(page: Page) -> str:
    return f'<section class="hs-pane">{page_html(page, pick=True)}</section>'


def _pins(view: View) -> str:
    if not view.pins:
        return ""
    drawn = "".join(
        f'<li><button type="button" data-pick="f:{escaped(pin)}">{escaped(pin)}</button></li>'
        for pin in view.pins
    )
    return f'<section class="hs-pane"><h2>Pinned</h2><ul class="hs-chips">{drawn}</ul></section>'
