"""A text taken apart: for every token its parents, each with its one child, and what they explain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from hsae_hub.render import Block, Part, Row, Tree, render_html, render_text, table


@dataclass(frozen=True)
class RunnerUp:
    """A child that was not kept, because another child of its parent acted more strongly."""

    id: str
    act: float


@dataclass(frozen=True)
class Feature:
    """A latent that acts on a token. With x̂ = Σ c_j, its own term is c_j = act · decoder row."""

    id: str
    """`4121` for a parent, `4121/3` for its child."""
    act: float
    """The multiple of its decoder row that it adds; rows of length 1 make it the units of the residual."""
    share: float
    """`⟨c_j, x̂⟩ / ‖x̂‖²` of its own term: a token's shares, children's and bias's too, sum to 1; some are negative."""
    leave_one_out: float
    """What `explained` loses without it, a parent without its child too; negative where it does harm."""
    child: Feature | None = None
    """The one child of a parent; None for a child and in a flat SAE."""
    runner_ups: tuple[RunnerUp, ...] = ()
    """A parent's next children by act, not part of x̂."""
    label: str | None = None


@dataclass(frozen=True)
class Token:
    """One token of the text."""

    position: int
    id: int
    """In the model's vocabulary; -1 where only its activation is known."""
    text: str
    special: bool
    """Whether it is BOS, EOS or the like: the SAE was not made for these, and they are not taken apart."""
    norm: float = 0.0
    """‖x‖ of its residual."""
    explained: float = 0.0
    """`1 − ‖x − x̂‖² / ‖x‖²`. For one token there is no mean to take away, so this is not explained variance."""
    explained_by_parents: float = 0.0
    """The same with parents only, 1 − ‖x − x̂_parents‖² / ‖x‖²."""
    bias_share: float = 0.0
    """Share of the decoder's bias; 0 without one."""
    fired: int = 0
    """Parents that act on it."""
    features: tuple[Feature, ...] = ()
    """Parents, strongest act first."""

    @property
    def unexplained(self) -> float:
        """`‖x − x̂‖² / ‖x‖²`."""
        return 1 - self.explained


@dataclass(frozen=True)
class Decomposition:
    """A text, token by token. `str()` draws it as a tree, a notebook as HTML."""

    text: str
    sae: str
    """Where the SAE came from, or its architecture."""
    model: str
    hookpoint: str
    tokens: tuple[Token, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self)

    def to_text(self, width: int = 80) -> str:
        """As a tree in lines of at most `width` columns."""
        return render_text(_tree(self), width=width)

    def to_table(self) -> str:
        """As lines of columns, one for each feature that acts, and one for what is left of each token."""
        head = ("position", "token", "feature", "act", "share", "loss without")
        return table(head, [row for token in self.tokens for row in _table_rows(token)])

    def to_jsonl(self) -> str:
        """As one JSON object a line, a token each."""
        return "\n".join(json.dumps(asdict(t), ensure_ascii=False) for t in self.tokens)

    def to_html(self) -> str:
        """As a piece of HTML that needs nothing from outside."""
        return render_html(_tree(self))

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return self.to_html()


def _tree(found: Decomposition) -> Tree:
    strongest = max(
        (abs(f.act) for t in found.tokens for p in t.features for f in (p, p.child) if f),
        default=1.0,
    )
    return Tree(
        title=found.text,
        subtitle=f"{found.model} · {found.hookpoint} · {found.sae}",
        columns=("act", "share", "without"),
        blocks=tuple(_block(token, strongest) for token in found.tokens),
        footnote="act: how much of its decoder row a feature adds. share: of the reconstruction x̂, ⟨c,x̂⟩/‖x̂‖²; a "
        "token's shares sum to 1. without: change of the explained part, 1−‖x−x̂‖²/‖x‖², if it is left out, a parent "
        "with its child.",
    )


def _block(token: Token, strongest: float) -> Block:
    title = f"{token.position:>3} {token.text!r}"
    if token.special:
        return Block(f"{title} special, not taken apart", (), ())
    hidden = token.fired - len(token.features)
    note = f"{hidden} more of {token.fired} that fired" if hidden else ""
    return Block(
        title, parts_of(token), tuple(_row(feature, strongest) for feature in token.features), note
    )


def parts_of(token: Token) -> tuple[Part, ...]:
    """What of a token parents explain, what their children add to it, and what nothing explains."""
    is_tree = any(feature.child for feature in token.features)
    return (
        Part("parents" if is_tree else "explained", token.explained_by_parents),
        *([Part("children", token.explained - token.explained_by_parents)] if is_tree else []),
        Part("unexplained", token.unexplained),
    )


def _percent(value: float, sign: str) -> str:
    text = f"{value:{sign}.1%}"
    return "0.0%" if text in ("-0.0%", "+0.0%") else text


def _row(feature: Feature, strongest: float) -> Row:
    child = () if feature.child is None else (_row(feature.child, strongest),)
    others = tuple(
        Row(other.id, other.act / strongest, (f"{other.act:.2f}", "unused", ""), faint=True)
        for other in feature.runner_ups
    )
    cells = (
        f"{feature.act:.2f}",
        _percent(feature.share, ""),
        _percent(-feature.leave_one_out, "+"),
    )
    return Row(feature.id, feature.act / strongest, cells, feature.label, child + others)


def _table_rows(token: Token) -> Iterator[tuple[str, ...]]:
    place = (str(token.position), repr(token.text))
    for parent in token.features:
        for feature in (parent, parent.child) if parent.child else (parent,):
            numbers = (feature.act, feature.share, feature.leave_one_out)
            yield (*place, feature.id, *(f"{number:.4f}" for number in numbers))
        for other in parent.runner_ups:
            yield (*place, f"{other.id} unused", f"{other.act:.4f}", "", "")
    if not token.special:
        yield (*place, "unexplained", "", "", f"{token.unexplained:.4f}")
