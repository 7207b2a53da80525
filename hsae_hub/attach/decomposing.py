"""Takes a text apart: for every token its parents, each with its one child, and what they explain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.architectures import SAE, Acts
from hsae_hub.artifact import config_of, info_of
from hsae_hub.attach.decomposition import Decomposition, Feature, RunnerUp, Token
from hsae_hub.errors import MisfitError, UsageError
from hsae_hub.models import Hookpoint, LanguageModel, read_activations

WINDOW = 1024
"""Most tokens of a long document that are read at once."""
_CHUNK = 16
"""Tokens whose decoder directions are in memory at once."""
_PRINTED = [b for b in range(256) if chr(b).isprintable() and chr(b) not in " \xa0\xad"]
_BYTES = {
    **{chr(b): b for b in _PRINTED},
    **{chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in _PRINTED)},
}
"""Which byte a character of a byte-level vocabulary stands for (Radford et al. 2019, `bytes_to_unicode`)."""


def decompose_ids(
    lm: LanguageModel,
    sae: SAE[Any],
    hookpoint: Hookpoint,
    ids: Sequence[int],
    top: int | None,
    runner_ups: int,
    *,
    first: int = 0,
    skip: int = 0,
) -> tuple[Token, ...]:
    """The tokens of one text that is read whole, but for some at its start; positions from `first`."""
    row = torch.tensor([list(ids)], device=lm.device)
    x = read_activations(lm, hookpoint, row, torch.ones_like(row))[0]
    ordinary = [i for i, token in enumerate(ids) if token not in lm.special_ids]
    numbers = dict(zip(ordinary, take_apart(sae, x[ordinary], top, runner_ups), strict=True))
    return tuple(
        Token(first + i - skip, ids[i], word, i not in numbers, **numbers.get(i, {}))
        for i, word in enumerate(token_texts(lm, ids))
        if i >= skip
    )


def windows_of(
    lm: LanguageModel, pieces: str | Iterable[str], window: int | None
) -> Iterator[tuple[list[int], int]]:
    """A document as windows of ids, each behind the special tokens that a text begins with; how many those are too.

    Raises:
        UsageError: a window has no room for a token, or is longer than the model can read.
    """
    start = [int(i) for i in lm.tokenizer("", verbose=False)["input_ids"]]
    longest = lm.max_tokens
    size = min(WINDOW, longest or WINDOW) if window is None else window
    if size <= len(start) or size > (longest or size):
        raise UsageError(
            f"window (={size}) must be more than {len(start)}"
            + (f" and at most {longest}, which is what {lm.id} reads" if longest else "")
        )
    room = size - len(start)
    waiting: list[int] = []
    for piece in [pieces] if isinstance(pieces, str) else pieces:
        found = lm.tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
        waiting += [int(i) for i in found]
        while len(waiting) > room:
            yield [*start, *waiting[:room]], len(start)
            waiting = waiting[room:]
    if waiting:
        yield [*start, *waiting], len(start)


def decompose_windows(
    lm: LanguageModel,
    sae: SAE[Any],
    hookpoint: Hookpoint,
    pieces: str | Iterable[str],
    top: int | None,
    runner_ups: int,
    window: int | None,
) -> Iterator[Decomposition]:
    """A document of any length, a window at a time; what came before a window is not read again.

    Raises:
        UsageError: a window has no room for a token, or is longer than the model can read.
    """
    place, first = place_name(lm, hookpoint), 0
    for ids, special in windows_of(lm, pieces, window):
        skip = special if first else 0  # later windows begin in the middle of the document
        tokens = decompose_ids(lm, sae, hookpoint, ids, top, runner_ups, first=first, skip=skip)
        first += len(tokens)
        text = str(lm.tokenizer.decode(ids[special:], clean_up_tokenization_spaces=False))
        yield Decomposition(text, sae_name(sae), lm.id, place, tokens)


def decompose_activations(
    sae: SAE[Any],
    activations: Float[Tensor, "tokens d_in"],
    texts: Sequence[str] | None = None,
    *,
    top: int | None = None,
    runner_ups: int = 0,
    first: int = 0,
) -> Decomposition:
    """Takes saved activations apart, without the language model that they are of.

    `texts` are the tokens' own, if they are known; `first` is the position of the first.

    Raises:
        MisfitError: the activations have another width than the SAE reads.
        UsageError: there are more or fewer texts than activations.
    """
    n, width = activations.shape
    if width != sae.d_in:
        raise MisfitError(f"this SAE reads width {sae.d_in} but the activations have width {width}")
    if texts is not None and len(texts) != n:
        raise UsageError(f"{len(texts)} texts of tokens for {n} activations")
    config = config_of(sae)
    model = config.model.id if config is not None and config.model is not None else "activations"
    place = config.hookpoint.path if config is not None and config.hookpoint is not None else ""
    found = take_apart(sae, activations.to(sae.device), top, runner_ups)
    tokens = tuple(
        Token(first + i, -1, "" if texts is None else texts[i], False, **numbers)
        for i, numbers in enumerate(found)
    )
    title = f"activations {first} to {first + n - 1}" if texts is None else "".join(texts)
    return Decomposition(title, sae_name(sae), model, place, tokens)


def sae_name(sae: SAE[Any]) -> str:
    """Where an SAE was loaded from, else what it is."""
    if (info := info_of(sae)) is not None:
        return info.ref
    n_parents, n_children = sae.shape
    size = f"{n_parents} × {n_children}" if n_children else str(n_parents)
    return f"{sae.config.architecture} {size}"


def place_name(lm: LanguageModel, hookpoint: Hookpoint) -> str:
    """A hookpoint as the model's own modules are called."""
    return str(hookpoint._replace(path=hookpoint.full_path(lm.hf)))


@torch.no_grad()
def take_apart(
    sae: SAE[Any], x: Float[Tensor, "tokens d_in"], top: int | None, runner_ups: int
) -> list[dict[str, Any]]:
    """The numbers of `Token` for each activation, `features` cut to the `top` strongest parents."""
    found: list[dict[str, Any]] = []
    for part in torch.split(x, _CHUNK) if len(x) else ():
        acts = sae.encode(part)
        others = sae.runner_ups(part, acts) if runner_ups else None
        terms = _terms(sae, part, acts)
        for i in range(len(part)):
            more = None if others is None else others[i]
            found.append(_token(sae, terms, i, more, top, runner_ups))
    return found


class _Terms(NamedTuple):
    """What the reconstructions of some tokens are made of; computed in float64 on the CPU."""

    acts: list[list[float]]
    latents: list[list[int]]
    shares: list[list[float]]
    lost: list[list[float]]
    """What is explained less without a slot's term, a parent's together with its child's."""
    child_of: list[dict[int, int]]
    """From the slot of a parent to that of its child."""
    norm: list[float]
    explained: list[float]
    by_parents: list[float]
    bias_share: list[float]


def _terms(sae: SAE[Any], x: Float[Tensor, "tokens d"], acts: Acts) -> _Terms:
    latents = acts.indices.tolist()
    nothing = acts.keep(torch.zeros_like(acts.values, dtype=torch.bool))
    bias = sae.decode(nothing).cpu().double()
    values = acts.values.cpu().double()
    terms = values[..., None] * sae.decoder_rows(acts.indices).cpu().double()
    whole = x.cpu().double()
    x_hat = terms.sum(1) + bias
    children = [_child_slots(sae, each) for each in latents]
    together = terms.clone()
    for i, pairs in enumerate(children):
        together[i, list(pairs)] += terms[i, list(pairs.values())]
    is_parent = (acts.indices < sae.shape.n_parents).cpu()
    by_parents = torch.where(is_parent[..., None], terms, 0).sum(1) + bias

    def missing(reconstruction: Float[Tensor, "tokens *a d"]) -> Float[Tensor, "tokens *a"]:
        of = whole if reconstruction.ndim == 2 else whole[:, None]
        found: Tensor = (of - reconstruction).square().sum(-1)
        return found

    size, size_hat = whole.square().sum(-1), x_hat.square().sum(-1)
    share = _over((terms @ x_hat[..., None])[..., 0], size_hat[:, None])
    lost = _over(missing(x_hat[:, None] - together) - missing(x_hat)[:, None], size[:, None])
    return _Terms(
        values.tolist(),
        latents,
        share.tolist(),
        lost.tolist(),
        children,
        size.sqrt().tolist(),
        _over(size - missing(x_hat), size).tolist(),
        _over(size - missing(by_parents), size).tolist(),
        _over((bias * x_hat).sum(-1), size_hat).tolist(),
    )


def _over(part: Float[Tensor, "*i"], whole: Float[Tensor, "*j"]) -> Float[Tensor, "*i"]:
    """A share; 0 of nothing."""
    return torch.where(whole == 0, 0, part / torch.where(whole == 0, 1, whole))


def _child_slots(sae: SAE[Any], latents: Sequence[int]) -> dict[int, int]:
    n_parents = sae.shape.n_parents
    slots = {sae.shape.parent_of(i): s for s, i in enumerate(latents) if i >= n_parents}
    return {s: slots[i] for s, i in enumerate(latents) if i < n_parents and i in slots}


def _token(
    sae: SAE[Any],
    terms: _Terms,
    i: int,
    others: Float[Tensor, "k m"] | None,
    top: int | None,
    runner_ups: int,
) -> dict[str, Any]:
    acts, latents, children = terms.acts[i], terms.latents[i], terms.child_of[i]
    parents = [s for s, each in enumerate(latents) if each < sae.shape.n_parents and acts[s] != 0]

    def feature(slot: int, below: Feature | None) -> Feature:
        name = sae.shape.name(latents[slot])
        return Feature(name, acts[slot], terms.shares[i][slot], terms.lost[i][slot], below)

    features = []
    for slot in sorted(parents, key=lambda s: -abs(acts[s]))[:top]:
        kept = children.get(slot)
        found = feature(slot, None if kept is None else feature(kept, None))
        if others is not None and kept is not None:
            more = _runner_ups(sae, latents[slot], latents[kept], others[slot], runner_ups)
            found = replace(found, runner_ups=more)
        features.append(found)
    return {
        "norm": terms.norm[i],
        "explained": terms.explained[i],
        "explained_by_parents": terms.by_parents[i],
        "bias_share": terms.bias_share[i],
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
