"""The page of one feature: everything that an index says of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import log2
from typing import Any, NamedTuple

from hsae_hub.render import (
    Context,
    Contexts,
    Histogram,
    Mark,
    Page,
    Pairs,
    Section,
    Tile,
    Tiles,
    page_html,
    page_text,
)

_BARS = 48
"""Most bars of a histogram."""


class Example(NamedTuple):
    """A context in which a feature acts."""

    band: int
    """0: one of its strongest. 1 to 5: one of a uniform sample, divided by act, 1 the strongest fifth."""
    act: float
    tokens: list[str]
    acts: list[float]
    """Its act on each token."""
    at: int
    """The token on which it acts most."""


class Relative(NamedTuple):
    """A feature's parent, or one of its children."""

    feature: str
    label: str
    share: float
    """How often it is the kept child where its parent acts, 0 to 1."""
    fired: int
    """Tokens on which it acted."""
    mean_act: float
    """Mean of its acts above zero."""
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class FeaturePage:
    """One feature. `str()` draws it for a terminal, a notebook shows it as HTML."""

    row: dict[str, Any]
    """Its row of `latents.parquet`; the columns are described in `index.json`. `label` is the best one there is."""
    parent: Relative | None
    children: tuple[Relative, ...]
    """Of a parent its children, of a child its siblings and itself, the most used first."""
    examples: tuple[Example, ...]
    named: dict[str, str]
    """Labels of the features that `row` speaks of."""
    score: float | None
    """Of its label, if that was measured."""
    source: str
    """Who gave its label; `tokens` for the tokens on which it acts."""
    about: dict[str, Any]
    """On what the index was made."""

    @property
    def feature(self) -> str:
        """Its name."""
        return str(self.row["feature"])

    @property
    def label(self) -> str:
        """Words for it; empty for a latent that never acted."""
        return str(self.row["label"])

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        examples = [each._asdict() for each in self.examples]
        children = [
            {**each._asdict(), "examples": [e._asdict() for e in each.examples]}
            for each in self.children
        ]
        parent = None if self.parent is None else self.parent._asdict()
        return {**asdict(self), "parent": parent, "children": children, "examples": examples}

    def to_page(self) -> Page:
        """As what can be drawn."""
        return _page(self)

    def to_text(self, width: int = 80) -> str:
        """In lines of at most `width` columns."""
        return page_text(_page(self), width=width)

    def to_html(self) -> str:
        """As a piece of HTML that needs nothing from outside."""
        return page_html(_page(self))

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return self.to_html()


def context_of(example: Example) -> Context:
    """An example as it is drawn: tokens are marked by their act."""
    most = max((abs(act) for act in example.acts), default=0.0) or 1.0
    marks = tuple(
        Mark(token, max(act, 0.0) / most, i == example.at)
        for i, (token, act) in enumerate(zip(example.tokens, example.acts, strict=True))
    )
    return Context(f"{example.act:.2f}", marks)


def _page(page: FeaturePage) -> Page:
    row, about = page.row, page.about
    crumbs = [(page.parent.label, page.parent.feature)] if page.parent else []
    told = f"{about['tokens']:,} tokens of {'; '.join(about['data'])}"
    return Page(
        crumbs=(*crumbs, (page.label, page.feature)),
        subtitle=f"{about['model']['id']} · {about['hookpoint']} · {told}",
        chips=_chips(page),
        sections=tuple(_sections(page)) if row["fired"] else (),
        footnote="act: how much of its decoder row it adds. Logits: its row through the final norm's gain and the "
        "unembedding, above the mean of all tokens, for a residual of root mean square 1. Bands are fifths of a "
        "uniform sample of the contexts in which it acts."
        if row["fired"]
        else "It acted on no token of the index.",
    )


def _chips(page: FeaturePage) -> tuple[str, ...]:
    row = page.row
    kind = "child" if page.parent else "parent" if page.children else "latent"
    chips = [kind, f"density {row['density']:.3%}", f"max {row['max_act']:.2f}"]
    if row["share"] is not None:
        chips.append(f"kept on {row['share']:.0%} of its parent's tokens")
    if page.parent:
        chips.append(f"mean act {row['mean_act']:.3g}, its parent's {page.parent.mean_act:.3g}")
    if row["p999"]:
        chips.append(f"p99.9 {row['p999']:.2g} of ‖x‖")
    if page.source != "tokens":
        score = "" if page.score is None else f", detection {page.score:.0%}"
        chips.append(f"label by {page.source}{score}")
    return tuple(chips)


def _sections(page: FeaturePage) -> list[Section]:
    row = page.row
    sections: list[Section] = [_histogram(row)]
    for title, column in (("pushes toward", "top_logits"), ("away from", "bottom_logits")):
        pairs = tuple((n["token"], f"{n['logit']:+.2f}") for n in row[column] or ())
        sections.append(Pairs(title, pairs))
    if page.children:
        owner = page.parent.feature if page.parent else page.feature
        title = f"{len(page.children)} children of {owner}: share of its tokens · mean act"
        sections.append(Tiles(title, tuple(_tile(page, each) for each in page.children)))
    for band in range(6):
        found = tuple(context_of(e) for e in page.examples if e.band == band)
        title = "strongest contexts" if band == 0 else f"band {band} of 5"
        sections.append(Contexts(title, found))
    sections.append(_others("nearest by decoder cosine", page, "nearest", "cosine"))
    sections.append(_others("parents that act together", page, "together", "coefficient"))
    return [section for section in sections if any(section[1])]


def place_of(row: dict[str, Any], relative: float) -> float | None:
    """Where an act of so many times ‖x‖ lies on a feature's histogram, 0 to 1; None if it is not above zero."""
    if relative <= 0 or not row["histogram"]:
        return None
    return float(((log2(relative) + 24) * 8 - row["first_bin"]) / len(row["histogram"]))


def _histogram(row: dict[str, Any]) -> Histogram:
    counts = row["histogram"]
    step = -(-len(counts) // _BARS) or 1
    heights = tuple(float(sum(counts[i : i + step])) for i in range(0, len(counts), step))

    def edge(i: int) -> str:
        return f"{2 ** ((row['first_bin'] + i) / 8 - 24):.2g}"

    shares = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9"}
    note = ", ".join(f"{name} {row[key]:.2g}" for key, name in shares.items())
    return Histogram("act / ‖x‖, doubling", heights, edge(0), edge(len(counts)), note)


def _tile(page: FeaturePage, child: Relative) -> Tile:
    return Tile(
        id=child.feature.partition("/")[2],
        label=child.label or "never acted",
        weight=child.share,
        note=f"{child.share:.0%} · {child.mean_act:.2g}" if child.fired else "",
        contexts=tuple(_short(context_of(e)) for e in child.examples),
        chosen=child.feature == page.feature,
        faint=not child.fired,
        target=child.feature,
    )


def _short(context: Context) -> Context:
    """The few tokens around the one that matters, for a tile."""
    at = next(i for i, mark in enumerate(context.marks) if mark.chosen)
    return Context("", context.marks[max(at - 4, 0) : at + 6])


def _others(title: str, page: FeaturePage, column: str, value: str) -> Pairs:
    pairs = tuple(
        (f"{n['feature']} {page.named.get(n['feature'], '')}".strip(), f"{n[value]:.2f}")
        for n in page.row[column] or ()
    )
    return Pairs(title, pairs, tuple(n["feature"] for n in page.row[column] or ()))


def hits_page(query: str, by: str, hits: list[dict[str, Any]]) -> Page:
    """What a search found."""
    tiles = tuple(
        Tile(
            id=hit["feature"],
            label=hit["label"],
            weight=0.0,
            note=hit["found"] * (hit["found"] != hit["label"]),
            target=hit["feature"],
        )
        for hit in hits
    )
    return Page(
        (("", query),),
        f"{len(hits)} features by {by}",
        (),
        (Tiles("found", tiles),) if tiles else (),
    )
