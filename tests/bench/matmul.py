"""Training steps with dense products in bfloat16 (`train.matmul`) and in float32, oneDNN's and another BLAS's.

    python tests/bench/matmul.py [--rounds 5] [--quick]

`BLAS` is a step whose float32 products are those of the BLAS that PyTorch carries, MKL on x86, as they would be without
`hsae_hub/ops/products.py`. The steps are those of step.py; the tree takes turns with the flat one at four times the
batch, where products weigh most.
"""

from __future__ import annotations

from typing import Literal

import torch
from harness import Findings, Scale, Way, interleaved, run_part
from harness.training import FREE, flat, trainer, tree

from hsae_hub.training.memory import kept_memory
from hsae_hub.training.trainer import Trainer


def step(of: Trainer, matmul: Literal["float32", "bfloat16"]) -> Way:
    """A step with products in a precision."""
    settings = of.train.model_copy(update={"matmul": matmul})

    def advance() -> None:
        of.train = settings
        of.advance()

    return advance


def without_onednn(work: Way) -> Way:
    """The same, while oneDNN is switched off."""

    def run() -> None:
        torch.backends.mkldnn.enabled = False
        try:
            work()
        finally:
            torch.backends.mkldnn.enabled = True

    return run


@kept_memory()  # as while `hsae train` runs
def measure(found: Findings, scale: Scale) -> None:
    """The flat one in three ways; then the flat one and the tree in bfloat16."""
    d, n, k, batch = scale.sizes()
    found.sizes = {"d_in": d, "latents": n, "k": k, "batch": batch, "children": 16, "subspace": 8}
    topk = trainer(flat("topk", d, n, k), batch)
    float32 = step(topk, "float32")
    ways = {"float32": float32, "bfloat16": step(topk, "bfloat16"), "BLAS": without_onednn(float32)}
    found.add_times(interleaved(ways, scale.rounds, warmup=2))
    found.ratio("bfloat16", "float32")
    found.ratio("float32", "BLAS")
    del topk, float32, ways
    large = {
        "topk": trainer(flat("topk", d, n, k), 4 * batch),
        "hsae": trainer({**tree(d, n, k), **FREE}, 4 * batch),
    }
    ways = {f"{name}, 4 x batch": step(of, "bfloat16") for name, of in large.items()}
    found.add_times(interleaved(ways, scale.rounds, warmup=2))
    found.ratio("hsae, 4 x batch", "topk, 4 x batch", bar=1.7)


if __name__ == "__main__":
    run_part(Findings(part="matmul", title="Steps with products in bfloat16"), measure)
