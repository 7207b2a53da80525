"""Gemma-2-2B's real shape, with random weights, and a 16,384 x 64 hsae in bfloat16 on a GPU: speed, memory, parity.

    python tests/bench/gemma2_shape.py [--device cuda] [--layers 26] [--parents 16384] [--rounds 5]

Tokens per second of reading (8 x 512) and of writing (8 x 64), plain, steered and spliced, turn about, as medians; the
most memory that each took; and how far logits with a splice in place are from the CPU's, both in float32. Without a GPU
it says so and ends; `--device cpu` with few layers and parents runs the same anywhere.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from harness.gemma import WIDTHS_2B, gemma

from hsae_hub.architectures import build
from hsae_hub.attach import Attached, attach
from hsae_hub.attach.batches import TokenBatch
from hsae_hub.attach.generating import greedy
from hsae_hub.models import load_language_model

ROWS, READ, PROMPT, NEW = 8, 512, 32, 64


def attached(arguments: argparse.Namespace) -> Attached:
    tokenizer = load_language_model(device="cpu").tokenizer
    hf = gemma(
        WIDTHS_2B,
        layers=arguments.layers,
        vocabulary=256_000,
        device=arguments.device,
        dtype=torch.bfloat16,
    )
    lm = load_language_model((hf, tokenizer))
    tree = {"n_parents": arguments.parents, "n_children": 64, "d_subspace": 8, "k": 32}
    sae = build({"architecture": "hsae", "d_in": 2304, **tree}, seed=0)
    sae = sae.to(arguments.device, torch.bfloat16).requires_grad_(False)
    return attach(sae, lm, hookpoint=f"layers.{arguments.layers * 20 // 26}")


def batch(lm: Attached, width: int) -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 2000, (ROWS, width), generator=generator).to(lm.lm.device)
    return TokenBatch(ids, torch.ones_like(ids))


def timed(work: Callable[[], Any], device: str) -> tuple[float, float]:
    """Seconds, and gigabytes on the GPU at most."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return time.perf_counter() - started, torch.cuda.max_memory_allocated() / 1e9
    return time.perf_counter() - started, 0.0


def parity(lm: Attached) -> tuple[float, float]:
    """Greatest difference of two devices' logits with a splice in place, and the logits' own greatest size."""
    found = []
    one = TokenBatch(*(each[:1, :PROMPT] for each in batch(lm, PROMPT)))
    for device in (str(lm.lm.device), "cpu"):
        lm.lm.hf.to(device, torch.float32)
        lm.sae.to(device, torch.float32)
        with lm.splice():
            moved = TokenBatch(*(each.to(device) for each in one))
            found.append(lm._engine.logits(moved, lm._stack()).cpu())
    return float((found[0] - found[1]).abs().max()), float(found[1].abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--parents", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("gemma2_shape: no GPU here, skipped")
        return
    lm = attached(arguments)
    config = greedy(lm.lm, NEW)
    config.min_new_tokens = NEW
    ways: dict[str, Callable[[], Any]] = {
        "plain": nullcontext,
        "steered": lambda: lm.steer({"12/3": 1.0}, units="raw"),
        "spliced": lm.splice,
    }
    jobs = {"read": (batch(lm, READ), ROWS * READ), "write": (batch(lm, PROMPT), ROWS * NEW)}
    rates: dict[tuple[str, str], list[float]] = {}
    memory: dict[tuple[str, str], float] = {}
    for turn in range(arguments.rounds + 1):
        for job, (tokens, count) in jobs.items():
            for way, block in ways.items():
                with block():
                    stack = lm._stack()
                    work = (
                        partial(lm._engine.logits, tokens, stack)
                        if job == "read"
                        else partial(lm._engine.generate, tokens, config, stack)
                    )
                    seconds, peak = timed(work, arguments.device)
                if turn:  # the first one warms up
                    rates.setdefault((job, way), []).append(count / seconds)
                    memory[job, way] = max(memory.get((job, way), 0.0), peak)
    where = (
        torch.cuda.get_device_name() if arguments.device.startswith("cuda") else arguments.device
    )
    print(
        f"Gemma-2 shape, {arguments.layers} layers, hsae {arguments.parents} x 64, bfloat16, {where}"
    )
    for job, way in rates:
        found = rates[job, way]
        ratio = statistics.median(a / b for a, b in zip(found, rates[job, "plain"], strict=True))
        print(
            f"  {job:5} {way:8} {statistics.median(found):10,.0f} tokens/s  {ratio:.3f} x plain"
            f"  [{min(found):,.0f}, {max(found):,.0f}]  {memory[job, way]:.1f} GB"
        )
    difference, size = parity(lm)
    print(f"  spliced logits, float32: at most {difference:.1e} from the CPU's, of {size:.1f}")


if __name__ == "__main__":
    main()
