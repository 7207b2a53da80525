"""A text as a tree: its strip of tokens, and what acts on the chosen one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hsae_hub.attach import Feature, Token
from hsae_hub.attach.decomposition import parts_of
from hsae_hub.demo.cards import feature_card
from hsae_hub.demo.exhibit import Exhibit, Looked
from hsae_hub.demo.view import View
from hsae_hub.render import Part, Row, StripToken, escaped, render_budget, render_rows, render_strip
from hsae_hub.render.strip import Hue

_TELLING = 0.1
"""A child whose act is this share of its parent's is worth a first look."""
TOP = 8
"""Parents shown of a token."""
_HUES: dict[str, Hue] = {"feature": "child", "child": "child", "unexplained": "unexplained"}


def settle(view: View, looked: Looked) -> View:
    """The view with a token and a feature that are there.

    If none was chosen: the token whose strongest parent has the child that says most, the last of several such; and
    that child, or a parent whose child says nothing.
    """
    tokens = looked.tree.tokens
    ordinary = [token for token in tokens if not token.special]
    token = view.token
    if token not in [each.position for each in ordinary]:
        token = max(reversed(ordinary), key=_said_by_a_child).position if ordinary else None
    if view.feature is not None or token is None or not tokens[token].features:
        return replace(view, token=token)
    first = tokens[token].features[0]
    if first.child is not None and abs(first.child.act) >= _TELLING * abs(first.act):
        first = first.child
    return replace(view, token=token, feature=first.id)


def _said_by_a_child(token: Token) -> float:
    """Share of the child of its strongest parent; 0 in a flat SAE."""
    child = token.features[0].child if token.features else None
    return 0.0 if child is None else child.share


def page(exhibit: Exhibit, looked: Looked, view: View) -> str:
    """Strip, budget, tree and card of a settled view."""
    tokens = looked.tree.tokens
    strip = render_strip(list(_tinted(tokens, view)), chosen=view.token, hue=_hue(view))
    if view.token is None:
        return f'<div class="hs-page">{strip}<p class="hs-note">No token of this text can be taken apart.</p></div>'
    token = tokens[view.token]
    return (
        f'<div class="hs-page">{strip}<div class="hs-grid"><div>'
        f'<section class="hs-pane"><h2>How much of this activation is explained</h2>{_budget(token, looked)}</section>'
        f'<section class="hs-pane"><h2>Features on token {token.position} <q>{escaped(token.text)}</q></h2>'
        f"{_tree(token, view)}</section></div>"
        f'<section class="hs-pane" id="hs-card">{feature_card(exhibit, view, token)}</section></div></div>'
    )


def _hue(view: View) -> Hue:
    is_parent = view.colour == "feature" and "/" not in (view.feature or "/")
    return "parent" if is_parent else _HUES[view.colour]


def acts_of(tokens: tuple[Token, ...], feature: str | None) -> list[float]:
    """The act of a feature on every token; 0 where it does not act."""
    return [
        next((each.act for each in features_of(token) if each.id == feature), 0.0)
        for token in tokens
    ]


def features_of(token: Token) -> Iterator[Feature]:
    """Parents and their children."""
    for parent in token.features:
        yield parent
        if parent.child is not None:
            yield parent.child


def _tinted(tokens: tuple[Token, ...], view: View) -> Iterator[StripToken]:
    if view.colour == "unexplained":
        for token in tokens:
            told = f"{token.unexplained:.0%} unexplained"
            yield StripToken(token.text, token.unexplained, told, token.special)
        return
    if view.colour == "child":
        named = [
            max((f.child for f in t.features if f.child), key=_act, default=None) for t in tokens
        ]
        numbers = [0.0 if child is None else child.act for child in named]
        names = ["no child" if child is None else child.id for child in named]
    else:
        numbers = acts_of(tokens, view.feature)
        names = [str(view.feature)] * len(tokens)
    most = max([abs(number) for number in numbers], default=0) or 1.0
    for token, number, name in zip(tokens, numbers, names, strict=True):
        yield StripToken(token.text, number / most, f"{name}: {number:.2f}", token.special)


def _act(feature: Feature) -> float:
    return feature.act


def _budget(token: Token, looked: Looked) -> str:
    flat = looked.flat.get(token.position)
    return render_budget(parts_of(token), mark=None if flat is None else Part("flat SAE", flat))


def _tree(token: Token, view: View) -> str:
    shown = token.features[:TOP]
    parent = (view.feature or "").partition("/")[0]
    shown += tuple(f for f in token.features[TOP:] if f.id == parent)
    most = max((abs(f.act) for f in features_of(token)), default=1.0) or 1.0
    rows = [_row(feature, most) for feature in shown]
    drawn = render_rows(rows, ("act", "share"), chosen=view.feature, title="Features of this token")
    note = (
        f"{token.fired} fired on this token; the {len(shown)} strongest are shown. "
        if token.fired > len(shown)
        else f"{token.fired} fired on this token. "
    )
    if any(f.child for f in shown):
        note += (
            "One child per parent enters the reconstruction; the others are shown for comparison."
        )
    return f'{drawn}<p class="hs-note">{note}</p>'


def _row(feature: Feature, most: float) -> Row:
    child = () if feature.child is None else (_row(feature.child, most),)
    others = tuple(
        Row(other.id, other.act / most, (f"{other.act:.2f}", "not used"), faint=True)
        for other in feature.runner_ups
    )
    cells = (f"{feature.act:.2f}", f"{feature.share:.0%} of x̂".replace("-0%", "0%"))
    return Row(feature.id, feature.act / most, cells, feature.label, child + others)
