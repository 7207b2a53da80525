"""Two SAEs on one token, feature beside feature, as in figures 4 and 6 of Muchane et al. 2025."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from hsae_hub.architectures import SAE
from hsae_hub.attach import Attached, Decomposition, Feature, Token
from hsae_hub.attach.decomposition import parts_of
from hsae_hub.errors import MisfitError, UsageError
from hsae_hub.features.directions import unit_rows
from hsae_hub.features.naming import named_token
from hsae_hub.render import Block, Row, Tree, render_html, render_text

ALIKE = 0.5
"""Features of two SAEs are matched from this cosine of their decoder rows on."""


@dataclass(frozen=True)
class Match:
    """The feature of the other SAE that points the same way."""

    feature: str
    cosine: float


@dataclass(frozen=True)
class Side:
    """One SAE on the token."""

    sae: str
    token: Token
    """Its features, the strongest first, with labels where there are any."""
    matches: dict[str, Match]
    """By feature; of those that are not here no acting feature of the other SAE is alike."""


@dataclass(frozen=True)
class Comparison:
    """Two SAEs on one token. `str()` draws one below the other, a notebook shows them side by side."""

    text: str
    model: str
    hookpoint: str
    first: Side
    second: Side

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self)

    def trees(self) -> tuple[Tree, Tree]:
        """Each side as what can be drawn."""
        strongest = max(
            (abs(f.act) for side in (self.first, self.second) for f in _all(side.token)),
            default=1.0,
        )
        return _tree(self, self.first, strongest), _tree(self, self.second, strongest)

    def to_text(self, width: int = 80) -> str:
        """In lines of at most `width` columns."""
        first, second = self.trees()
        return render_text(
            first._replace(
                title=self.text,
                subtitle=f"{self.model} · {self.hookpoint} · "
                f"token {self.first.token.position} {self.first.token.text!r}",
                blocks=(*first.blocks, *second.blocks),
            ),
            width=width,
        )

    def pieces(self) -> list[str]:
        """Two pieces of HTML that need nothing from outside."""
        return [render_html(tree) for tree in self.trees()]

    def to_html(self) -> str:
        """Both pieces side by side where there is room."""
        style = "display:grid;grid-template-columns:repeat(auto-fit,minmax(24em,1fr));gap:24px"
        return f'<div style="{style}">{"".join(self.pieces())}</div>'

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return self.to_html()


def compare_on(
    first: Attached,
    second: Attached,
    text: str,
    *,
    token: int = -1,
    top: int = 8,
    labels: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
) -> Comparison:
    """Takes one token of a text apart with two SAEs, and matches the features that act there.

    Matched are pairs with the highest cosine of decoder rows first, each feature once, parents and children alike, from
    0.5 on. `top` parents are shown of each.

    Raises:
        MisfitError: they read different places, or models.
        UsageError: there is no such token, or it is a special one.
    """
    if first.lm is not second.lm or first.hookpoint != second.hookpoint:
        raise MisfitError(
            f"{first!r} and {second!r} are not at one place of one model",
            why="features are compared on the same activation",
        )
    found = [each.decompose(text) for each in (first, second)]
    tokens = [_token(each, token) for each in found]
    pairs = _matched(first.sae, tokens[0], second.sae, tokens[1])
    there = {a: Match(b, cosine) for a, b, cosine in pairs}
    back = {b: Match(a, cosine) for a, b, cosine in pairs}
    sides = [
        Side(each.sae, named_token(replace(one, features=one.features[:top]), names), matches)
        for each, one, names, matches in zip(found, tokens, labels, (there, back), strict=True)
    ]
    return Comparison(text, found[0].model, found[0].hookpoint, sides[0], sides[1])


def _token(found: Decomposition, number: int) -> Token:
    n = len(found.tokens)
    if not -n <= number < n:
        raise UsageError(f"the text has tokens 0 to {n - 1}, not {number}")
    token = found.tokens[number]
    if token.special:
        raise UsageError(f"token {token.position} {token.text!r} is a special one, not taken apart")
    return token


def _all(token: Token) -> list[Feature]:
    return [f for parent in token.features for f in (parent, parent.child) if f is not None]


def _matched(
    first: SAE[Any], one: Token, second: SAE[Any], other: Token
) -> list[tuple[str, str, float]]:
    """Pairs of acting features, greedily by cosine."""
    names = [[f.id for f in _all(token) if f.act] for token in (one, other)]
    if not all(names):
        return []
    rows = [
        unit_rows(sae, torch.tensor([sae.shape.index_of(name) for name in each])).cpu()
        for sae, each in zip((first, second), names, strict=True)
    ]
    cosines = rows[0] @ rows[1].T
    pairs: list[tuple[str, str, float]] = []
    for _ in range(min(cosines.shape)):
        best = int(cosines.argmax())
        a, b = divmod(best, cosines.shape[1])
        if cosines[a, b] < ALIKE:
            break
        pairs.append((names[0][a], names[1][b], float(cosines[a, b])))
        cosines[a], cosines[:, b] = -1, -1
    return pairs


def _tree(found: Comparison, side: Side, strongest: float) -> Tree:
    token = side.token
    hidden = token.fired - len(token.features)
    return Tree(
        title=side.sae,
        subtitle=f"token {token.position} {token.text!r} in {found.text!r}",
        columns=("act", "share", "like", "cosine"),
        blocks=(
            Block(
                side.sae,
                parts_of(token),
                tuple(_row(side, feature, strongest) for feature in token.features),
                f"{hidden} more of {token.fired} that fired" if hidden else "",
            ),
        ),
        footnote="like: the acting feature of the other SAE with the nearest decoder row, from cosine 0.5 on, each "
        "once; – where there is none. share: of the reconstruction, ⟨c,x̂⟩/‖x̂‖².",
    )


def _row(side: Side, feature: Feature, strongest: float) -> Row:
    match = side.matches.get(feature.id)
    cells = (
        f"{feature.act:.2f}",
        f"{feature.share:.1%}",
        match.feature if match else "–",
        f"{match.cosine:.2f}" if match else "",
    )
    below = () if feature.child is None else (_row(side, feature.child, strongest),)
    return Row(feature.id, feature.act / strongest, cells, feature.label, below)
