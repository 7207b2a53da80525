"""Takes a text apart: for every token its parents, each with its one child, and what they explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.architectures import SAE, Acts
from hsae_hub.models import LanguageModel
from hsae_hub.render import Block, Part, Row, Tree, render_html, render_text

_CHUNK = 16
"""Tokens whose decoder directions are in memory at once."""
_PRINTED = [b for b in range(256) if chr(b).isprintable() and chr(b) not in " \xa0\xad"]
_BYTES = {
    **{chr(b): b for b in _PRINTED},
    **{chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in _PRINTED)},
}
"""Which byte a character of a byte-level vocabulary stands for (Radford et al. 2019, `bytes_to_unicode`)."""


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

    def to_html(self) -> str:
        """As a piece of HTML that needs nothing from outside."""
        return render_html(_tree(self))

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return self.to_html()


@torch.no_grad()
def take_apart(
    sae: SAE[Any], x: Float[Tensor, "tokens d_in"], top: int | None, runner_ups: int
) -> list[dict[str, Any]]:
    """The numbers of `Token` for each activation, `features` cut to the `top` strongest parents."""
    found: list[dict[str, Any]] = []
    for part in torch.split(x, _CHUNK) if len(x) else ():
        acts = sae.encode(part)
        others = sae.runner_ups(part, acts) if runner_ups else None
        rows = sae.decoder_rows(acts.indices)
        for i in range(len(part)):
            one = _Terms.of(sae, part[i], acts, i, rows[i])
            found.append(_token(sae, one, None if others is None else others[i], top, runner_ups))
    return found


class _Terms(NamedTuple):
    """What one token's reconstruction is made of, in float64 on the CPU."""

    x: Float[Tensor, " d"]
    values: Float[Tensor, " a"]
    names: list[int]
    terms: Float[Tensor, "a d"]
    bias: Float[Tensor, " d"]

    @classmethod
    def of(
        cls, sae: SAE[Any], x: Float[Tensor, " d"], acts: Acts, i: int, rows: Float[Tensor, "a d"]
    ) -> _Terms:
        values = acts.values[i].double().cpu()
        nothing = acts.keep(torch.zeros_like(acts.values, dtype=torch.bool))
        bias = sae.decode(nothing)[i]
        return cls(
            x.double().cpu(),
            values,
            acts.indices[i].tolist(),
            values[:, None] * rows.double().cpu(),
            bias.double().cpu(),
        )


def _token(
    sae: SAE[Any],
    one: _Terms,
    others: Float[Tensor, "k m"] | None,
    top: int | None,
    runner_ups: int,
) -> dict[str, Any]:
    n_parents = sae.shape.n_parents
    x_hat = one.terms.sum(0) + one.bias
    size, whole = float(one.x.square().sum()), float(x_hat.square().sum())
    shares = (one.terms @ x_hat / whole).tolist() if whole else [0.0] * len(one.names)
    parents = [s for s, name in enumerate(one.names) if name < n_parents and one.values[s] != 0]
    children = {
        sae.shape.parent_of(name): s for s, name in enumerate(one.names) if name >= n_parents
    }
    by_parents = (
        one.terms[[s for s, name in enumerate(one.names) if name < n_parents]].sum(0) + one.bias
    )

    def explained(x_hat: Tensor) -> float:
        return 1 - float((one.x - x_hat).square().sum()) / size if size else 0.0

    def feature(slot: int, below: Feature | None, term: Tensor) -> Feature:
        lost = explained(x_hat) - explained(x_hat - term)
        return Feature(
            sae.shape.name(one.names[slot]), float(one.values[slot]), shares[slot], lost, below
        )

    features = []
    for slot in sorted(parents, key=lambda s: -abs(float(one.values[s])))[:top]:
        term, below, kept = one.terms[slot], None, children.get(one.names[slot])
        if kept is not None:
            below = feature(kept, None, one.terms[kept])
            term = term + one.terms[kept]
        found = feature(slot, below, term)
        if others is not None and kept is not None:
            more = _runner_ups(sae, one.names[slot], one.names[kept], others[slot], runner_ups)
            found = replace(found, runner_ups=more)
        features.append(found)
    return {
        "norm": size**0.5,
        "explained": explained(x_hat),
        "explained_by_parents": explained(by_parents),
        "bias_share": float(one.bias @ x_hat) / whole if whole else 0.0,
        "fired": len(parents),
        "features": tuple(features),
    }


def _runner_ups(
    sae: SAE[Any], parent: int, kept: int, acts: Float[Tensor, " m"], count: int
) -> tuple[RunnerUp, ...]:
    order = acts.argsort(descending=True).tolist()
    latents = [(sae.shape.child(parent, child), float(acts[child])) for child in order]
    return tuple(RunnerUp(sae.shape.name(i), act) for i, act in latents if i != kept)[:count]


def token_texts(lm: LanguageModel, ids: Sequence[int]) -> list[str]:
    """Each token as people read it, with its leading blank; part of a character comes as the tokenizer writes it."""
    pieces = lm.tokenizer.convert_ids_to_tokens(list(ids))
    texts = []
    for i, piece in zip(ids, pieces, strict=True):
        text = lm.tokenizer.decode([i], clean_up_tokenization_spaces=False)
        if "\N{REPLACEMENT CHARACTER}" in text or not text:
            known = all(c in _BYTES for c in piece)
            text = (
                bytes(_BYTES[c] for c in piece).decode(errors="backslashreplace")
                if known
                else piece
            )
        elif piece.startswith("▁") and not text.startswith(" "):
            text = " " + text  # SentencePiece leaves out the blank of a first word
        texts.append(str(text))
    return texts


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
    is_tree = any(feature.child for feature in token.features)
    parts = (
        Part("parents" if is_tree else "explained", token.explained_by_parents),
        *([Part("children", token.explained - token.explained_by_parents)] if is_tree else []),
        Part("unexplained", token.unexplained),
    )
    hidden = token.fired - len(token.features)
    note = f"{hidden} more of {token.fired} that fired" if hidden else ""
    return Block(title, parts, tuple(_row(feature, strongest) for feature in token.features), note)


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
