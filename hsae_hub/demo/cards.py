"""A feature in a few lines: what is known of it, and what it does on this token."""

from __future__ import annotations

from hsae_hub.attach import Token
from hsae_hub.demo.exhibit import Exhibit
from hsae_hub.demo.view import View
from hsae_hub.errors import NotFoundError
from hsae_hub.features.pages import place_of
from hsae_hub.render import (
    Contexts,
    Histogram,
    Page,
    Section,
    Tile,
    Tiles,
    escaped,
    page_html,
)

_LINES = 5


def feature_card(exhibit: Exhibit, view: View, token: Token) -> str:
    """The card of the chosen feature on a token, with what can be done with it."""
    if view.feature is None:
        return '<p class="hs-note">No feature acts on this token.</p>'
    here = next(
        (f.act for p in token.features for f in (p, p.child) if f and f.id == view.feature), 0.0
    )
    try:
        page = plain_page(exhibit, view.feature)
        if exhibit.index is not None:
            known = exhibit.index.feature(view.feature)
            page = _short(known.to_page(), place_of(known.row, here / token.norm))
    except NotFoundError as error:
        return f'<p class="hs-note" role="alert">{escaped(str(error))}</p>'
    said = f"here {here:.2f}" if here else "silent here"
    return page_html(page._replace(chips=(*page.chips, said)), pick=True) + _actions(view)


def _short(page: Page, mark: float | None) -> Page:
    """A feature's page with a mark on its histogram, without its bands, its neighbours and its children's examples."""
    kept: list[Section] = []
    for section in page.sections:
        if isinstance(section, Contexts):
            if section.title == "strongest contexts":
                kept.append(section._replace(contexts=section.contexts[:_LINES]))
        elif isinstance(section, Tiles):
            tiles = tuple(tile._replace(contexts=()) for tile in section.tiles)
            kept.append(section._replace(tiles=tiles))
        elif isinstance(section, Histogram):
            kept.append(section._replace(mark=mark))
        elif section.title in ("pushes toward", "away from"):
            kept.append(section._replace(pairs=section.pairs[:_LINES]))
    return page._replace(sections=tuple(kept), subtitle="", footnote="")


def plain_page(exhibit: Exhibit, feature: str) -> Page:
    """What an SAE itself knows of a feature, without an index.

    Raises:
        NotFoundError: it has no such feature.
    """
    shape, info = exhibit.attached.sae.shape, exhibit.info
    latent = shape.index_of(feature)
    parent = shape.parent_of(latent)
    crumbs = [] if parent is None else [("", shape.name(parent))]
    kind = "child" if parent is not None else "parent" if shape.n_children else "latent"
    chips, sections = [kind], []
    if info is not None and info.stats is not None:
        density, strong = info.stats.density, info.stats.p999
        chips += [
            f"density {float(density[latent]):.2%}",
            f"p99.9 {float(strong[latent]):.3g} of ‖x‖",
        ]
        if shape.n_children:
            above = latent if parent is None else parent
            sections.append(_tiles(exhibit, above, latent, density.tolist()))
    return Page((*crumbs, ("", shape.name(latent))), "", tuple(chips), tuple(sections))


def _tiles(exhibit: Exhibit, parent: int, latent: int, density: list[float]) -> Tiles:
    shape = exhibit.attached.sae.shape
    children = [shape.child(parent, i) for i in range(shape.n_children)]
    children.sort(key=lambda child: -density[child])
    tiles = []
    for child in children:
        share = density[child] / density[parent] if density[parent] else 0.0
        tiles.append(
            Tile(
                id="/" + shape.name(child).partition("/")[2],
                label="",
                weight=min(share, 1.0),
                note=f"{share:.0%}",
                chosen=child == latent,
                faint=not density[child],
                target=shape.name(child),
            )
        )
    return Tiles(f"{shape.n_children} children of {shape.name(parent)}, by use", tuple(tiles))


def _actions(view: View) -> str:
    pinned = view.feature in view.pins
    names = {
        "steer": "Steer with this",
        "open": "Open its page",
        "pin": "Unpin" if pinned else "Pin",
    }
    inner = "".join(
        f'<button type="button" data-pick="do:{what}" data-key="do:{what}">{said}</button>'
        for what, said in names.items()
    )
    return f'<div class="hs-actions">{inner}</div>'
