"""What attaching costs: forwards and generated tokens with an SAE attached, beside the same by plain PyTorch hooks.

    python tests/bench/attach.py [--rounds 5] [--quick]

`2B` has 4 layers of Gemma-2-2B's widths, a vocabulary of the embedded model's size, and a tree of 16,384 x 16 in its
middle: the encoder has 0.12 of the multiplications of the layers, as against 0.019 beside the 26 layers of the whole
model. `tiny` is the embedded model, where Python's own time shows. A forward reads 256 tokens; a generated token is a
16th of 16 after a short prompt. Weights are random, float32 on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from harness import Findings, Scale, Took, Way, interleaved, run_part, timed
from harness.gemma import NARROW, WIDTHS_2B, gemma, untouched
from harness.training import tree
from torch import Tensor

from hsae_hub.architectures import SAE, build
from hsae_hub.attach import Attached, attach
from hsae_hub.attach.batches import TokenBatch
from hsae_hub.attach.generating import greedy
from hsae_hub.models import LanguageModel, load_language_model

READ, PROMPT, NEW = 256, 4, 16
EDIT = {"12/3": 0.01}


class Held(NamedTuple):
    """What a ratio is held to: forwards, and generated tokens."""

    of: str
    over: str
    forward: float | None = None
    token: float | None = None


HOLDS = {
    "2B": (
        Held("hook, spliced", "plain model"),
        Held("attached, spliced", "plain model", 1.13, 1.05),
        Held("attached, spliced", "hook, spliced", None, 1.05),
    ),
    "tiny": (
        Held("hook, spliced", "plain model"),
        Held("attached, idle", "plain model"),
        Held("attached, steered", "hook, steered"),
        Held("attached, spliced", "hook, spliced", None, 1.05),
        Held("engine hooks, steered", "hook, steered"),
        Held("engine hooks, spliced", "hook, spliced", None, 1.05),
    ),
}


@contextmanager
def hooked(lm: LanguageModel, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The least that anyone has to do: a hook on the layer, on every token."""
    layer = lm.hf.model.layers[lm.n_layers // 2]
    handle = layer.register_forward_hook(lambda _m, _args, out: change(out))
    try:
        yield
    finally:
        handle.remove()


def blocks(
    lm: LanguageModel, plain: LanguageModel, sae: SAE[Any]
) -> dict[str, tuple[Attached | None, Any]]:
    """Who runs the model, and the block to run it in; `plain` is a copy that nothing was ever attached to."""
    place = f"layers.{lm.n_layers // 2}"
    ours, simple = (attach(sae, lm, hookpoint=place, engine=e) for e in ("nnsight", "hooks"))
    row = 0.01 * sae.decoder_rows(torch.tensor([12])).detach()[0]
    return {
        "plain model": (None, nullcontext),
        "hook, steered": (None, lambda: hooked(plain, lambda h: h + row)),
        "hook, spliced": (None, lambda: hooked(plain, lambda h: sae(h).sae_out)),
        "attached, idle": (ours, nullcontext),
        "attached, steered": (ours, lambda: ours.steer(EDIT, units="raw")),
        "attached, spliced": (ours, ours.splice),
        "engine hooks, steered": (simple, lambda: simple.steer(EDIT, units="raw")),
        "engine hooks, spliced": (simple, simple.splice),
    }


@torch.no_grad()
def turn(plain: LanguageModel, attached: Attached | None, block: Any, generated: bool) -> Took:
    """What a forward, or a generated token, takes; entering the block is not in it."""
    lm = plain if attached is None else attached.lm
    length = PROMPT if generated else READ
    ids = torch.randint(4, 2000, (1, length), generator=torch.Generator().manual_seed(0))
    batch = TokenBatch(ids, torch.ones_like(ids))
    arguments = {"input_ids": batch.ids, "attention_mask": batch.mask}
    config = greedy(lm, NEW)
    config.min_new_tokens = NEW
    with block():
        if attached is None and generated:
            work: Way = partial(lm.hf.generate, **arguments, generation_config=config)
        elif attached is None:
            work = partial(lm.hf, **arguments, use_cache=False)
        elif generated:
            work = partial(attached._engine.generate, batch, config, attached._stack())
        else:
            work = partial(attached._engine.logits, batch, attached._stack())
        took = timed(work)
    share = NEW if generated else 1
    return Took(took.wall / share, took.cpu / share)


def measure(found: Findings, scale: Scale) -> None:
    """The wide model first."""
    tiny = load_language_model(device="cpu")
    d, n, k, _ = scale.sizes()
    found.sizes = {"d_in": d, "parents": n, "k": k, "tokens": READ, "layers": 4}
    wide = gemma(
        NARROW if scale.quick else WIDTHS_2B, layers=4, vocabulary=tiny.hf.config.vocab_size
    )
    small = tree(tiny.d_model, 1024, 16, subspace=4)
    lm = load_language_model((wide, tiny.tokenizer), device="cpu")
    for name, model, shape in (("2B", lm, tree(d, n, k)), ("tiny", tiny, small)):
        sae = build(shape, seed=0).requires_grad_(False)
        plain = untouched(model)
        used = {way for held in HOLDS[name] for way in (held.of, held.over)}
        several = {way: b for way, b in blocks(model, plain, sae).items() if way in used}
        for generated in (False, True):
            what = f"{name}, {'token' if generated else 'forward'}"
            ways = {
                f"{what}: {way}": partial(turn, plain, attached, block, generated)
                for way, (attached, block) in several.items()
            }
            found.add_times(interleaved(ways, scale.rounds))
            for held in HOLDS[name]:
                bar = held.token if generated else held.forward
                found.ratio(f"{what}: {held.of}", f"{what}: {held.over}", bar=bar)
        del sae, several, ways


if __name__ == "__main__":
    run_part(Findings(part="attach", title="A language model with an SAE attached"), measure)
