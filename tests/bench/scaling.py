"""How a training step and a forward pass of `hsae` grow with width, parents, children, batch and tokens.

    python tests/bench/scaling.py [--rounds 5] [--quick]

One size varies at a time; all of its values take turns. A slope is the exponent of a power law through every round's
times, with the 95 % interval of the fit: 1 is linear. In the middle stand d_in 768, 4,096 parents, 16 children in 8
dimensions, k 32 and a batch of 512, without penalties.
"""

from __future__ import annotations

from typing import Any

import torch
from harness import Findings, Scale, Way, interleaved, run_part
from harness.training import FREE, sparse_tokens, trainer, tree

from hsae_hub.architectures import build

MIDDLE = {"d_in": 768, "parents": 4096, "children": 16, "batch": 512}
VARIED = {
    "d_in": (256, 512, 1024, 2048),
    "parents": (1024, 4096, 16_384),
    "children": (4, 16, 64, 256),
    "batch": (128, 512, 2048),
}
TOKENS = (16, 128, 1024, 4096)
QUICK = 16
"""What sizes are divided by, but for the children."""


def config(sizes: dict[str, int], k: int) -> dict[str, Any]:
    """An `hsae` without penalties."""
    return {**tree(sizes["d_in"], sizes["parents"], k, children=sizes["children"]), **FREE}


@torch.no_grad()
def forwards(sizes: dict[str, int], k: int, tokens: tuple[int, ...]) -> dict[str, Way]:
    """One SAE on batches of several sizes."""
    sae = build(config(sizes, k), seed=0).requires_grad_(False).eval()
    x = sparse_tokens(sae.W_dec, max(tokens), k)
    return {str(count): lambda count=count: sae(x[:count]) for count in tokens}


def measure(found: Findings, scale: Scale) -> None:
    """Training steps, then forward passes."""
    by = QUICK if scale.quick else 1
    k = 32 // (4 if scale.quick else 1)
    shrink = {name: 1 if name == "children" else by for name in MIDDLE}
    middle = {name: size // shrink[name] for name, size in MIDDLE.items()}
    found.sizes = {**middle, "k": k}
    for name, values in VARIED.items():
        ways: dict[str, Way] = {}
        for value in (value // shrink[name] for value in values):
            sizes = {**middle, name: value}
            ways[str(value)] = trainer(config(sizes, k), sizes["batch"]).advance
        found.slope("hsae step", name, interleaved(ways, scale.rounds, warmup=2))
        del ways
    with torch.no_grad():
        ways = forwards(middle, k, tuple(count // by for count in TOKENS))
        found.slope("hsae forward", "tokens", interleaved(ways, scale.rounds, warmup=2))


if __name__ == "__main__":
    run_part(Findings(part="scaling", title="Scaling"), measure)
