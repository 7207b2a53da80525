"""A forward pass of `hsae`, training off, beside one of our flat `topk` of the same width.

    python tests/bench/forward.py [--rounds 5] [--quick]

Encoding and decoding of 512 tokens in float32 on one thread; 16 children in 8 dimensions.
"""

from __future__ import annotations

import torch
from harness import Findings, Scale, interleaved, run_part
from harness.training import flat, sparse_tokens, tree

from hsae_hub.architectures import build


@torch.no_grad()
def measure(found: Findings, scale: Scale) -> None:
    """Both in turn, each on sums of its own decoder rows."""
    d, n, k, _ = scale.sizes()
    batch = scale.pick(512, 64)
    found.sizes = {"d_in": d, "latents": n, "k": k, "tokens": batch, "children": 16, "subspace": 8}
    ways = {}
    for name, config in (("topk", flat("topk", d, n, k)), ("hsae", tree(d, n, k))):
        sae = build(config, seed=0).requires_grad_(False).eval()
        x = sparse_tokens(sae.W_dec, batch, k)
        ways[name] = lambda sae=sae, x=x: sae(x)
    found.add_times(interleaved(ways, 2 * scale.rounds, warmup=2))
    found.ratio("hsae", "topk", bar=1.10)


if __name__ == "__main__":
    run_part(Findings(part="forward", title="A forward pass"), measure)
