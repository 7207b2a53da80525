"""The same interventions by plain PyTorch hooks, written from their definitions: what attaching is compared with."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hsae_hub.architectures import SAE, build
from hsae_hub.artifact import ArtifactInfo, LatentTable, ModelConfig, read_artifact, save_sae
from hsae_hub.attach import Attached
from hsae_hub.attach.batches import encode_texts, pad_left
from hsae_hub.models import Hookpoint, LanguageModel, load_language_model, tokenizer_sha256

HSAE = {
    "architecture": "hsae",
    "d_in": 256,
    "n_parents": 64,
    "n_children": 4,
    "d_subspace": 4,
    "k": 8,
}
TOPK = {"architecture": "topk", "d_in": 256, "d_sae": 96, "k": 8}
LAYER = 3
PROMPTS = ["The history of the town began in", "Rain", "In 1871 the first railway was opened"]

Change = Callable[[Tensor], Tensor]
"""From the residual `[b, s, d]` to the one in its place, on every token."""


def fresh_model() -> LanguageModel:
    """A model that nnsight has never seen."""
    return load_language_model(device="cpu")


def saved_sae(folder: Path, config: dict[str, Any] = HSAE, *, stats: bool = True) -> SAE[Any]:
    """A random SAE as it comes back from disk, with a made-up table of p99.9."""
    lm = fresh_model()
    built = build(config, seed=0)
    p999 = torch.linspace(0.1, 0.9, built.d_sae)
    p999[[7, built.d_sae - 1]] = 0  # two that never fired
    table = LatentTable(p999, torch.full((built.d_sae,), 0.01), 5000) if stats else None
    save_sae(
        built,
        folder,
        model=ModelConfig(id=lm.id, tokenizer_sha256=tokenizer_sha256(lm.tokenizer)),
        hookpoint=Hookpoint(f"layers.{LAYER}").config(lm),
        stats=table,
    )
    sae = read_artifact(folder).sae
    assert isinstance(sae.info, ArtifactInfo)
    return sae


def row_of(sae: SAE[Any], name: str) -> Tensor:
    """Decoder direction of `4121` or `4121/3`, from the weights themselves."""
    weights = sae.weights()
    parent, _, child = name.partition("/")
    if not child:
        return weights["W_dec"][int(parent)]
    return weights["W_up"][int(parent)] @ weights["child_W_dec"][int(parent), :, int(child)]


def p999_of(sae: SAE[Any], name: str) -> float:
    return float(sae.info.stats.p999[sae.shape.index_of(name)])


def steer(sae: SAE[Any], edits: dict[str, float], *, mode: str = "full") -> Change:
    """Strength times p99.9 times the norm along the row; 0 takes act times row away."""

    def change(h: Tensor) -> Tensor:
        out = h.clone()
        dense = sae.encode(h).dense()
        for name, strength in edits.items():
            parent, _, child = name.partition("/")
            if strength == 0:
                gone = [name] if child else [name, *(f"{name}/{c}" for c in range(4))]
                for one in gone:
                    out -= dense[..., sae.shape.index_of(one), None] * row_of(sae, one)
                continue
            pushed = [parent, name] if child and mode == "full" else [name]
            for one in pushed:
                out += (
                    strength * p999_of(sae, one) * h.norm(dim=-1, keepdim=True) * row_of(sae, one)
                )
        return out

    return change


def splice(sae: SAE[Any]) -> Change:
    return lambda h: sae.decode(sae.encode(h))


@contextmanager
def hooked(
    lm: LanguageModel, changes: Sequence[Change], *, prompt_only: bool = False, layer: int = LAYER
) -> Iterator[None]:
    """Applies changes to the output of a layer, on tokens that are neither padding nor special."""
    seen: dict[str, Tensor] = {}

    def note(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"]
        mask = kwargs.get("attention_mask")  # generate leaves out one that hides nothing
        told = isinstance(mask, Tensor) and mask.ndim == 2
        mask = mask[:, -ids.shape[1] :] if told else torch.ones_like(ids)
        special = torch.zeros_like(ids).bool()
        for i in lm.tokenizer.all_special_ids:
            special |= ids == i
        seen["keep"] = (mask == 1) & ~special

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        h = output
        if prompt_only and h.shape[1] == 1:
            return output
        for change in changes:
            h = torch.where(seen["keep"][..., None], change(h), h)
        return h

    layers = lm.hf.get_decoder()
    layers = layers.layers if hasattr(layers, "layers") else layers.h
    handles = [
        lm.hf.register_forward_pre_hook(note, with_kwargs=True),
        layers[layer].register_forward_hook(hook),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def batch_of(lm: LanguageModel, texts: Sequence[str]) -> dict[str, Tensor]:
    """Padded on the left, with the positions that each text has alone."""
    rows = [lm.tokenizer(text)["input_ids"] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def logits(lm: LanguageModel, texts: Sequence[str], changes: Sequence[Change] = ()) -> Tensor:
    batch = batch_of(lm, texts)
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    with hooked(lm, changes):
        return lm.hf(**batch, position_ids=positions).logits


@torch.no_grad()
def tokens(
    lm: LanguageModel,
    texts: Sequence[str],
    changes: Sequence[Change] = (),
    *,
    new: int = 12,
    prompt_only: bool = False,
) -> Tensor:
    """Greedy continuations."""
    with hooked(lm, changes, prompt_only=prompt_only):
        return lm.hf.generate(
            **batch_of(lm, texts), max_new_tokens=new, do_sample=False, pad_token_id=0
        )


def hooks_on(hf: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in hf.modules()
    )


def logits_of(lm: Attached, texts: Sequence[str]) -> Tensor:
    return lm._engine.logits(pad_left(lm.lm, encode_texts(lm.lm, texts)), lm._stack())


def tokens_of(lm: Attached, texts: Sequence[str], new: int = 12) -> Tensor:
    """Ids that `generate` makes, seen on their way."""
    seen: list[Tensor] = []
    real = lm._engine.generate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm._engine, "generate", lambda *a, **k: seen.append(real(*a, **k)) or seen[0])
        lm.generate(list(texts), max_new_tokens=new)
    return seen[0]


def assert_same(lm: Attached, plain: LanguageModel, changes: Sequence[Change]) -> None:
    for texts in (PROMPTS, PROMPTS[:1]):
        torch.testing.assert_close(
            logits_of(lm, texts), logits(plain, texts, changes), rtol=0, atol=1e-5
        )
    assert torch.equal(tokens_of(lm, PROMPTS), tokens(plain, PROMPTS, changes))
