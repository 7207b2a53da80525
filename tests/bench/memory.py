"""Memory that a training step takes beside parameters and optimiser state, as a share of the parameters' bytes.

    python tests/bench/memory.py [--rounds 5] [--quick]

The most that was in memory during `Trainer.advance` (VmHWM) less what was there before it; gradients count, for they
are given back before. Two steps come first: moments are there, and what libraries keep for themselves. Shapes: step.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from harness import Findings, Scale, run_part
from harness.memory import most_memory
from harness.training import FREE, flat, trainer, tree

from hsae_hub.training.trainer import Trainer

HOLDS = {"topk": None, "hsae": 0.06}


class Memory(NamedTuple):
    """All in bytes."""

    weights: int
    """What the parameters take."""
    moments: int
    """What Adam remembers of them."""
    step: int
    """The most that a step takes beside both."""


def measure(config: dict[str, Any], batch: int, rounds: int = 1) -> list[Memory]:
    """A reading a round."""
    made = trainer(config, batch)
    for _ in range(2):
        made.advance()
    return [_of_a_step(made) for _ in range(rounds)]


def _of_a_step(made: Trainer) -> Memory:
    (member,) = made.members
    for parameter in member.sae.parameters():
        parameter.grad = None
    step = most_memory(made.advance)
    entries = member.optimizer.state.values()
    return Memory(
        sum(parameter.nbytes for parameter in member.sae.parameters()),
        sum(value.nbytes for entry in entries for value in entry.values()),
        step,
    )


def report(found: Findings, scale: Scale) -> None:
    """The flat one and the tree, without penalties and with the paper's."""
    d, n, k, batch = scale.sizes()
    found.sizes = {"d_in": d, "latents": n, "k": k, "batch": batch, "children": 16, "subspace": 8}
    configs = {
        "topk": flat("topk", d, n, k),
        "hsae": {**tree(d, n, k), **FREE},
        "hsae, penalties": tree(d, n, k),
    }
    for name, config in configs.items():
        readings = measure(config, batch, rounds=min(scale.rounds, 3))
        found.add(f"{name}: a step", [each.step for each in readings], "bytes")
        found.add(f"{name}: parameters", [each.weights for each in readings], "bytes")
        found.ratio(f"{name}: a step", f"{name}: parameters", bar=HOLDS.get(name))


if __name__ == "__main__":
    run_part(Findings(part="memory", title="Memory of a training step"), report)
