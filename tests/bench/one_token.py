"""One token encoded, as when text is generated: `sae.encode` beside the product with the whole encoder and a top-k.

    python tests/bench/one_token.py [--rounds 5] [--quick]

Float32 on one thread, random weights. Every round takes another token, and both have to choose the same latents.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import torch
from harness import Findings, Scale, interleaved, repeated, run_part
from harness.training import flat, sparse_tokens, tree
from torch import Tensor

from hsae_hub.architectures import SAE, build

TOKENS = 64


def dense(sae: SAE, k: int) -> Callable[[Tensor], Tensor]:
    """What anybody would write: all pre-activations of a token, and where the `k` largest are."""
    bias = 0 if sae.b_dec is None else sae.b_dec
    b_enc = getattr(sae, "b_enc", None)
    own = 0 if b_enc is None else b_enc
    return lambda x: ((x - bias) @ sae.W_enc + own).topk(k, sorted=False).indices


@torch.no_grad()
def measure(found: Findings, scale: Scale) -> None:
    """Of the flat one, for which the bar is, and of a tree, which also encodes the children of what it chose."""
    d, n, k, _ = scale.sizes()
    found.sizes = {"d_in": d, "latents": n, "k": k, "children": 16, "subspace": 8}
    for name, config, bar in (
        ("topk", flat("topk", d, n, k), 0.2),
        ("hsae", tree(d, n, k), None),
    ):
        sae = build(config, seed=0).requires_grad_(False).eval()
        whole = dense(sae, k)
        tokens = list(sparse_tokens(sae.W_dec, TOKENS, k).split(1))
        for x in tokens:
            ours = sae.encode(x).indices[:, :k].sort().values
            if not torch.equal(ours, whole(x).sort().values):
                raise ValueError(f"{name} does not choose the latents that the dense product does")
        turns = {way: cycle(tokens) for way in ("encode", "dense")}
        times = scale.pick(8, 4)
        ways = {
            f"{name}, encode": repeated(lambda s=sae, t=turns: s.encode(next(t["encode"])), times),
            f"{name}, dense": repeated(lambda w=whole, t=turns: w(next(t["dense"])), times),
        }
        found.add_times(interleaved(ways, 4 * scale.rounds, warmup=4))
        found.ratio(f"{name}, encode", f"{name}, dense", bar=bar)


if __name__ == "__main__":
    run_part(Findings(part="one_token", title="One token encoded"), measure)
