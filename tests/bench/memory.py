"""Memory of training an `hsae` of 16,384 parents × 64 children on the CPU, next to what its weights and moments take.

python tests/bench/memory.py            # Gemma-2-2B's width: 12 GB and two minutes on one core
python tests/bench/memory.py --d-in 256
"""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

import torch

from hsae_hub.architectures import build
from hsae_hub.recipes import TrainSection
from hsae_hub.training.trainer import Trainer

STATUS = Path("/proc/self/status")
"""Where Linux tells what a process has in memory (VmRSS) and the most it ever had there (VmHWM)."""
BATCH = 512
SHAPE = {"architecture": "hsae", "n_parents": 16_384, "n_children": 64, "d_subspace": 8, "k": 32}


class Memory(NamedTuple):
    """All in bytes."""

    weights: int
    """What the parameters take."""
    moments: int
    """What Adam remembers of them."""
    peak: int
    """The most that was in memory at once, beyond what the imports had left there."""

    @property
    def ratio(self) -> float:
        """The peak in multiples of weights and moments."""
        return self.peak / (self.weights + self.moments)


class Noise:
    """A stream of random activations."""

    tokens = 0
    wait_seconds = 0.0

    def __init__(self, d_in: int) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.d_in = d_in

    def next_batch(self) -> torch.Tensor:
        """One batch."""
        self.tokens += BATCH
        return torch.randn(BATCH, self.d_in, generator=self.generator)


def measure(d_in: int) -> Memory:
    """Two steps of the trainer in a process that has done nothing else; the second one begins with gradients held."""
    before = resident("VmRSS")
    train = TrainSection(steps=2, batch_size=BATCH, lr=5e-4, warmup_steps=0)
    sae = build({**SHAPE, "d_in": d_in})
    trainer = Trainer({"main": sae}, Noise(d_in), train, command="")
    while not trainer.done:
        trainer.advance()
    peak = resident("VmHWM") - before
    moments = trainer.members[0].optimizer.state.values()
    return Memory(
        sum(p.nbytes for p in sae.parameters()),
        sum(value.nbytes for entry in moments for value in entry.values()),
        peak,
    )


def resident(name: str) -> int:
    """One of the figures of `STATUS`, in bytes."""
    return 1024 * int(re.search(rf"^{name}:\s*(\d+) kB", STATUS.read_text(), re.M)[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d-in", type=int, default=2304, help="width of the activations")
    d_in = parser.parse_args().d_in
    found = measure(d_in)
    weights, moments, peak = (f"{size / 1e9:.2f} GB" for size in found)
    print(
        f"hsae 16,384 x 64, d_in {d_in}, batch {BATCH}: peak {peak}, "
        f"{found.ratio:.2f} x its weights ({weights}) and moments ({moments})"
    )
