"""A forward pass of `hsae`, training off, beside one of our flat `topk` of the same width.

    python tests/bench/forward.py [--rounds 5] [--quick]

Encoding and decoding of 512 tokens in float32 on one thread; 16 children in 8 dimensions. Where kernels are compiled
(the extra `fast`) plain torch takes its turns, too.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from harness import Findings, Scale, interleaved, run_part
from harness.kernels import in_plain_torch
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
    if find_spec("numba"):
        ways |= {f"{name}, plain": in_plain_torch(work) for name, work in ways.items()}
    found.add_times(interleaved(ways, 2 * scale.rounds, warmup=2))
    if find_spec("numba"):
        found.ratio("hsae", "topk", bar=1.10)
        found.ratio("hsae, plain", "topk, plain", bar=1.25)
    else:
        found.ratio("hsae", "topk", bar=1.25)


if __name__ == "__main__":
    run_part(Findings(part="forward", title="A forward pass"), measure)
