"""The kernels on a GPU, against the oracle and the device's own ceilings; forwards and steps of whole SAEs.

    python tests/bench/run.py tests/bench/gpu.py [--rounds 5] [--json FILE]

Kernels: errors beside sums in float64, times beside plain torch's and beside a floor: each number that is needed moved
once at the bandwidth of a copy, or the arithmetic at the rate of a bfloat16 product, both measured in this run. SAEs:
flat ones of 16,384 and 65,536 latents, and trees of 16,384 parents with 16 children in 4 dimensions and 64 in 8, d_in
2304, k 32, at 4,096 to 32,768 tokens; a forward with weights in bfloat16; a step of the trainer, dense products in
bfloat16, weights and moments in float32, without penalties, and the most memory that it takes beside weights and
moments. Without a GPU it says so and ends; `--quick` runs all of it at small sizes anywhere.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from harness import Findings, Scale, Way, interleaved, run_part
from harness.device import name, on_device, peak_memory
from harness.kernel_cases import ceilings, large_tables, measure, measure_top_k, popular
from harness.training import AT, FREE, Same, flat, tree
from harness.update_cases import measure_columns, measure_updates
from torch import Tensor

from hsae_hub.architectures import SAE, build
from hsae_hub.ops import weighted_rows
from hsae_hub.ops.kernels import plain
from hsae_hub.recipes import TrainSection
from hsae_hub.training.trainer import Trainer

SETTINGS: dict[str, Any] = {
    "steps": 10**6,
    "lr": 1e-5,
    "warmup_steps": 0,
    "log_every": 10**6,
    "matmul": "bfloat16",
}


def tokens(sae: SAE[Any], batch: int, k: int) -> Tensor:
    """Rows of norm 1, each a sum of `k` decoder rows of Zipf's popularity with weights between 1 and 2."""
    g = torch.Generator(sae.device).manual_seed(0)
    table = sae.W_dec.detach().float()
    rows = popular(batch, k, len(table), g)
    values = 1 + torch.rand(batch, k, generator=g, device=sae.device)
    x = weighted_rows(values, rows, table)
    return x / x.norm(dim=1, keepdim=True)


def configs(scale: Scale) -> dict[str, dict[str, Any]]:
    """The first one is what the others are compared with."""
    d, n, k, _ = scale.sizes()
    return {
        f"topk {n}": flat("topk", d, n, k),
        f"topk {4 * n}": flat("topk", d, 4 * n, k),
        f"hsae {n} x 16": {**tree(d, n, k, children=16, subspace=4), **FREE},
        f"hsae {n} x 64": {**tree(d, n, k, children=64, subspace=8), **FREE},
    }


def ratios(found: Findings, kind: str, ways: dict[str, Way], rounds: int) -> None:
    """All in turn, two rounds before those that count."""
    times = interleaved(ways, rounds, warmup=2)
    found.add_times({f"{label}, {kind}": took for label, took in times.items()})
    first, *others = times
    for label in others:
        found.ratio(f"{label}, {kind}", f"{first}, {kind}")


@torch.no_grad()
def forward(found: Findings, scale: Scale, device: torch.device, batch: int) -> None:
    """Encoding and decoding, weights and tokens in bfloat16."""
    ways = {}
    for label, config in configs(scale).items():
        sae = build(config, seed=0).to(device, torch.bfloat16).requires_grad_(False)
        x = tokens(sae, batch, config["k"]).bfloat16()
        ways[label] = on_device(lambda sae=sae, x=x: sae(x), device, 5)
    ratios(found, f"forward, {batch} tokens", ways, scale.rounds)


def step(found: Findings, scale: Scale, device: torch.device, batch: int) -> None:
    """A step of the trainer, and the most memory that it takes beside weights and moments."""
    ways = {}
    for label, config in configs(scale).items():
        sae = build(config, seed=0).to(device)
        stream = Same(tokens(sae, batch, config["k"]))
        section = TrainSection(batch_size=batch, **SETTINGS)
        made = Trainer({"main": sae}, stream, section, command="")
        made.step = AT
        for _ in range(2):
            made.advance()
        sae.zero_grad()
        memory = peak_memory(made.advance, device)
        found.add(f"{label}, step's memory, {batch} tokens", [memory], "bytes")
        ways[label] = on_device(made.advance, device, 2)
    ratios(found, f"step, {batch} tokens", ways, scale.rounds)


def report(found: Findings, scale: Scale) -> None:
    """Ceilings, kernels, then whole SAEs."""
    if not torch.cuda.is_available() and not scale.quick:
        found.notes.append(
            "no GPU here, nothing measured (--quick runs it at small sizes anywhere)"
        )
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    has_kernels = device.type == "cuda" and find_spec("triton") is not None
    kernels = import_module("hsae_hub.ops.kernels.cuda") if has_kernels else plain
    found.sizes = {"device": name(device), "kernels": kernels.__name__.rpartition(".")[2]}
    top = ceilings(found, scale, device)
    measure(found, scale, device, kernels, top)
    measure_top_k(found, scale, device, kernels, top)
    large_tables(found, scale, device, kernels)
    measure_updates(found, scale, device, top)
    measure_columns(found, scale, device, top)
    for batch in (64, 128) if scale.quick else (4096, 8192, 16_384, 32_768):
        forward(found, scale, device, batch)
        step(found, scale, device, batch)


if __name__ == "__main__":
    run_part(Findings(part="gpu", title="On a GPU"), report)
