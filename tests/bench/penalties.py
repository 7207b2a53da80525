"""What the paper's penalties add to a training step of `hsae`: exact, with rounded products, and cheap estimates.

    python tests/bench/penalties.py [--rounds 5] [--quick]

`exact` is the paper's objective, the recipes' default: orthogonality of all pairs of parents, l1 on every parent above
the threshold. `rounded` is the same with the products of the first in bfloat16. `cheap` estimates the first from random
probes and takes the second of the acts that are decoded, both in every 16th step: what that changes is in
train/RESULTS.md. Each takes turns with the flat step of the same width
(step.py); a turn of `cheap` is as many steps as lie between two of its penalties, of which the mean counts.
"""

from __future__ import annotations

from typing import Any

from harness import Findings, Scale, interleaved, repeated, run_part
from harness.training import flat, trainer, tree

from hsae_hub.training.memory import kept_memory

PENALTIES: dict[str, dict[str, Any]] = {
    "exact": {},
    "rounded": {"ortho": "bf16"},
    "cheap": {"ortho": "probes", "l1_over": "active", "penalty_every": 16},
}
BARS = {"exact": 4.0, "cheap": 1.6}


@kept_memory()  # as while `hsae train` runs
def measure(found: Findings, scale: Scale) -> None:
    """One after the other, for each takes several GB."""
    d, n, k, batch = scale.sizes()
    found.sizes = {"d_in": d, "latents": n, "k": k, "batch": batch, "children": 16, "subspace": 8}
    topk = trainer(flat("topk", d, n, k), batch)
    for name, penalties in PENALTIES.items():
        hsae = trainer({**tree(d, n, k), **penalties}, batch)
        every = hsae.members[0].sae.config.penalty_every
        ways = {f"topk beside {name}": topk.advance, name: repeated(hsae.advance, every)}
        found.add_times(interleaved(ways, scale.rounds, warmup=2))
        found.ratio(name, f"topk beside {name}", bar=BARS.get(name))
        del hsae, ways


if __name__ == "__main__":
    run_part(Findings(part="penalties", title="A training step of hsae with penalties"), measure)
