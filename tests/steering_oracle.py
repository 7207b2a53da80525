"""Steering by plain hooks and plain loops over tokens, from the definitions in `SteeringSpec`, `Edit` and `Gate`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attach_oracle as oracle
import torch
from torch import Tensor, nn

from hsae_hub.architectures import SAE
from hsae_hub.attach import Edit, SteeringSpec
from hsae_hub.models import LanguageModel

CHILDREN = range(oracle.HSAE["n_children"])


def holds(
    edit: Edit, lm: LanguageModel, acts: dict[str, float], ids: list[int], at: int, n: int
) -> bool:
    """Whether an edit is meant for token `at` of a text whose first `n` tokens are the prompt."""
    gate = edit.gate
    name = edit.feature or ""
    if gate.fires is not None:
        one = name.partition("/")[0] if gate.fires == "parent" else name
        if acts[one] == 0:
            return False
    if gate.after is not None:
        spellings = [
            lm.tokenizer(words, add_special_tokens=False)["input_ids"]
            for words in (gate.after, " " + gate.after)
        ]
        read = ids[: at + 1]
        if not any(
            read[i : i + len(phrase)] == phrase for phrase in spellings for i in range(len(read))
        ):
            return False
    if gate.positions is not None and at not in [p + n if p < 0 else p for p in gate.positions]:
        return False
    return gate.part is None or (gate.part == "generated") == (at >= n)


def edited(sae: SAE[Any], x: Tensor, acts: dict[str, float], edits: Sequence[Edit]) -> Tensor:
    """One token with the edits that hold on it."""
    norm = float(x.norm())

    def unit(edit: Edit, name: str) -> float:
        return 1.0 if edit.units == "raw" else norm * oracle.p999_of(sae, name)

    new = dict(acts)
    for edit in edits:
        if edit.mode in ("scale", "ablate"):
            name = str(edit.feature)
            family = [name] if "/" in name else [name, *(f"{name}/{c}" for c in CHILDREN)]
            for one in family:
                new[one] *= edit.strength if edit.mode == "scale" else 0.0
    for edit in edits:
        if edit.sibling:
            new[edit.sibling] += new[str(edit.feature)]
            new[str(edit.feature)] = 0.0
    for edit in edits:
        if edit.mode == "set":
            new[str(edit.feature)] = edit.strength * unit(edit, str(edit.feature))
    out = x.clone()
    for name, act in new.items():
        if act != acts[name]:
            out += (act - acts[name]) * oracle.row_of(sae, name)
    for edit in edits:
        if edit.direction is not None and edit.mode == "full":
            v = torch.tensor(edit.direction)
            out += edit.strength * (v if edit.units == "raw" else norm * v / v.norm())
        elif edit.mode in ("full", "relative"):
            name = str(edit.feature)
            for one in {name, name.partition("/")[0]} if edit.mode == "full" else {name}:
                out += edit.strength * unit(edit, one) * oracle.row_of(sae, one)
    for edit in edits:
        if edit.mode == "project_out":
            v = (
                oracle.row_of(sae, str(edit.feature))
                if edit.direction is None
                else torch.tensor(edit.direction)
            )
            out = out - (out @ v) / (v @ v) * v
    return out


@contextmanager
def steered(lm: LanguageModel, sae: SAE[Any], spec: SteeringSpec, prompt: int) -> Iterator[None]:
    """Steers a model that is given all ids at every forward; `prompt` columns of them are prompt."""
    seen: dict[str, Tensor] = {}
    names = [sae.shape.name(i) for i in range(sae.d_sae)]

    def note(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        seen["ids"] = kwargs["input_ids"]
        mask = kwargs.get("attention_mask")
        told = isinstance(mask, Tensor) and mask.ndim == 2
        seen["mask"] = mask if told else torch.ones_like(seen["ids"])  # type: ignore[assignment]

    def hook(_module: nn.Module, _args: Any, h: Tensor) -> Tensor:
        assert h.shape[1] == seen["ids"].shape[1], "this oracle takes no cache"
        out = h.clone()
        for row, (ids, mask) in enumerate(zip(seen["ids"], seen["mask"], strict=True)):
            own = mask.bool().nonzero()[:, 0].tolist()
            text = ids[own].tolist()
            n = int(mask[:prompt].sum())
            dense = sae.encode(h[row, own]).dense()
            for at, column in enumerate(own):
                if text[at] in lm.tokenizer.all_special_ids:
                    continue
                acts = dict(zip(names, dense[at].tolist(), strict=True))
                on = [e for e in spec.edits if holds(e, lm, acts, text, at, n)]
                if on:
                    out[row, column] = edited(sae, h[row, column], acts, on)
        return out

    handles = [
        lm.hf.register_forward_pre_hook(note, with_kwargs=True),
        lm.hf.get_decoder().layers[oracle.LAYER].register_forward_hook(hook),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def batch(lm: LanguageModel, texts: Sequence[str], side: str = "left") -> dict[str, Tensor]:
    rows = [lm.tokenizer(text)["input_ids"] for text in texts]
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        pad = [0] * (width - len(row))
        one = [1] * len(row)
        ids.append(pad + row if side == "left" else row + pad)
        mask.append(pad + one if side == "left" else one + pad)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@torch.no_grad()
def logits(
    lm: LanguageModel, sae: SAE[Any], spec: SteeringSpec, given: dict[str, Tensor]
) -> Tensor:
    positions = (given["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    with steered(lm, sae, spec, given["input_ids"].shape[1]):
        return lm.hf(**given, position_ids=positions, use_cache=False).logits


@torch.no_grad()
def tokens(
    lm: LanguageModel, sae: SAE[Any], spec: SteeringSpec, texts: Sequence[str], **config: Any
) -> Tensor:
    given = batch(lm, texts)
    settings = {"do_sample": False, "pad_token_id": 0} | config | {"use_cache": False}
    with steered(lm, sae, spec, given["input_ids"].shape[1]):
        return lm.hf.generate(**given, **settings)
