"""What attaching costs: forwards and generated tokens with an SAE attached, beside the same by plain PyTorch hooks.

    python tests/bench/attach.py [--rounds 9]

Every way does the same work turn about in one process; a ratio is taken within a round, and its median stands with its
quartiles. Times are the process's own, on one thread, so that other work on the machine matters little. `tiny` is the
embedded model, where Python's own time shows; `medium` has 8 layers of width 1024 and random weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM

from hsae_hub.architectures import SAE, build
from hsae_hub.attach import Attached, attach
from hsae_hub.attach.batches import encode_texts, pad_left
from hsae_hub.attach.generating import greedy
from hsae_hub.models import LanguageModel, load_language_model

TEXT = "The history of the town began in 1871, when the first railway was opened and the river was bridged. "
NEW = 16
EDIT = {"12/3": 0.01}


def models() -> Iterator[tuple[str, LanguageModel]]:
    tiny = load_language_model(device="cpu")
    yield "tiny", tiny
    config = Gemma2Config(
        vocab_size=tiny.hf.config.vocab_size,
        hidden_size=1024,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=128,
        intermediate_size=4096,
        max_position_embeddings=1024,
    )
    torch.manual_seed(0)
    hf = Gemma2ForCausalLM(config)
    yield "medium", load_language_model((hf, tiny.tokenizer), device="cpu")


def shape(d_in: int) -> dict[str, Any]:
    tree = {"n_parents": 1024, "n_children": 16, "d_subspace": 4, "k": 16}
    return {"architecture": "hsae", "d_in": d_in, **tree}


@contextmanager
def hooked(lm: LanguageModel, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The least that anyone has to do: a hook on the layer, on every token."""
    layer = lm.hf.model.layers[lm.n_layers // 2]
    handle = layer.register_forward_hook(lambda _m, _args, out: change(out))
    try:
        yield
    finally:
        handle.remove()


def ways(
    lm: LanguageModel, plain: LanguageModel, sae: SAE[Any]
) -> dict[str, tuple[Attached | None, Any]]:
    """Who runs the model, and the block to run it in; `plain` is a copy that nothing was ever attached to."""
    place = f"layers.{lm.n_layers // 2}"
    ours, simple = (attach(sae, lm, hookpoint=place, engine=e) for e in ("nnsight", "hooks"))
    row = 0.01 * sae.decoder_rows(torch.tensor([12])).detach()[0]
    edits = {"units": "raw"}
    return {
        "plain model": (None, nullcontext),
        "hook, steered": (None, lambda: hooked(plain, lambda h: h + row)),
        "hook, spliced": (None, lambda: hooked(plain, lambda h: sae(h).sae_out)),
        "attached, idle": (ours, nullcontext),
        "attached, steered": (ours, lambda: ours.steer(EDIT, **edits)),
        "attached, spliced": (ours, ours.splice),
        "engine hooks, steered": (simple, lambda: simple.steer(EDIT, **edits)),
        "engine hooks, spliced": (simple, simple.splice),
    }


BESIDE = {
    "hook, steered": "plain model",
    "hook, spliced": "plain model",
    "attached, idle": "plain model",
    "attached, steered": "hook, steered",
    "attached, spliced": "hook, spliced",
    "engine hooks, steered": "hook, steered",
    "engine hooks, spliced": "hook, spliced",
}


@torch.no_grad()
def seconds(plain: LanguageModel, attached: Attached | None, block: Any, generated: bool) -> float:
    lm = plain if attached is None else attached.lm
    batch = pad_left(lm, encode_texts(lm, [TEXT * (1 if generated else 4)]))
    arguments = {"input_ids": batch.ids, "attention_mask": batch.mask}
    config = greedy(lm, NEW)
    config.min_new_tokens = NEW
    with block():
        started = time.process_time()
        if generated and attached is None:
            lm.hf.generate(**arguments, generation_config=config)
        elif generated:
            attached._engine.generate(batch, config, attached._stack())
        elif attached is None:
            lm.hf(**arguments, use_cache=False)
        else:
            attached._engine.logits(batch, attached._stack())
        return (time.process_time() - started) / (NEW if generated else 1)


def told(values: list[float], unit: str = "") -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{statistics.median(values):6.2f}{unit} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for name, lm in models():
        plain = replace(lm, hf=deepcopy(lm.hf))
        sae = build(shape(lm.d_model), seed=0).requires_grad_(False)
        several = ways(lm, plain, sae)
        for generated in (False, True):
            times: dict[str, list[float]] = {way: [] for way in several}
            for turn in range(rounds + 1):
                for way, (attached, block) in several.items():
                    found = seconds(plain, attached, block, generated)
                    if turn:  # the first one warms up
                        times[way].append(1000 * found)
            print(f"{name}, ms per {'generated token' if generated else 'forward'}")
            for way, found in times.items():
                beside = BESIDE.get(way)
                pairs = zip(found, times[beside], strict=True) if beside else ()
                ratio = told([a / b for a, b in pairs], " x") + f"  {beside}" if beside else ""
                print(f"  {way:22} {told(found):24} {ratio}".rstrip())


if __name__ == "__main__":
    main()
