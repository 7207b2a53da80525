"""A training step with the encoder's gradient from the kept latents alone, beside the same step with the dense one.

    python tests/bench/step.py [--rounds 7] [--latents 16384] [--batch 1024] [--of topk hsae]

Both ways take turns in one process, on one thread; a ratio is taken within a round, and its median stands with its
quartiles. A step is forward, backward and fused Adam; `trainer` is the trainer's whole step, which also clips, and
keeps decoder rows at norm 1. The memory is the most that a step takes beside weights and moments, its gradients
included. Tokens are sums of 32 decoder rows of Zipf's popularity. `hsae` is without orthogonality, its l1 on the acts
that are decoded. With `HSAE_PEERS_PYTHON` (see `make peers`) SAELens' step takes its turn, in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hsae_hub.architectures.hsae
import hsae_hub.architectures.topk
from hsae_hub.architectures import TrainStep, build
from hsae_hub.ops import weighted_rows
from hsae_hub.ops.topk_linear import Kept
from hsae_hub.recipes import TrainSection
from hsae_hub.training.trainer import Trainer

STATUS = Path("/proc/self/status")
PEER = Path(__file__).parents[1] / "peers" / "sae_lens_step.py"
D_IN, K = 2304, 32
STEP = TrainStep(5_000, 1_000_000)


class Same:
    """A stream of one batch."""

    tokens = 0
    wait_seconds = 0.0

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def next_batch(self) -> Tensor:
        return self.x


def tokens(W_dec: Tensor, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    popularity = 1 / torch.arange(1, len(W_dec) + 1)
    rows = torch.multinomial(popularity.expand(batch, -1), K, generator=generator)
    x = weighted_rows(1 + torch.rand(batch, K, generator=generator), rows, W_dec)
    return x / x.norm(dim=1, keepdim=True)


def dense_linear(
    x: Tensor,
    W: Tensor,
    choose: Callable[[Tensor], Tensor],
    *,
    bias: Tensor | None = None,
    centre: Tensor | None = None,
) -> Kept:
    """`topk_linear` by autograd: its gradient is that of every pre-activation."""
    centred = x if centre is None else x - centre
    pre = centred @ W if bias is None else torch.addmm(bias, centred, W)
    indices = choose(pre.detach())
    return Kept(pre, pre.gather(-1, indices), indices)


@contextmanager
def dense() -> Iterator[None]:
    modules = (hsae_hub.architectures.topk, hsae_hub.architectures.hsae)
    ours = modules[0].topk_linear
    for module in modules:
        module.topk_linear = dense_linear
    try:
        yield
    finally:
        for module in modules:
            module.topk_linear = ours


def steps(config: dict[str, Any], batch: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """A step, and the trainer's; neither leaves gradients behind."""
    sae = build(config, seed=0)
    stream = Same(tokens(sae.W_dec.detach(), batch))
    train = TrainSection(steps=STEP.n_steps, batch_size=batch, lr=1e-5, warmup_steps=0)
    trainer = Trainer({"main": sae}, stream, train, command="")
    trainer.step = STEP.step
    optimizer = trainer.members[0].optimizer

    def plain() -> None:
        torch.autograd.backward(sae.losses(stream.x, STEP)["loss"])
        optimizer.step()
        optimizer.zero_grad()

    def whole() -> None:
        trainer.advance()
        optimizer.zero_grad()

    return plain, whole


class Peer:
    """SAELens, which makes a step for each line that it is sent."""

    def __init__(self, python: str, *sizes: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        arguments = [python, str(PEER), *map(str, sizes)]
        self.process = subprocess.Popen(
            arguments, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.name = self.process.stdout.readline().strip()

    def step(self) -> None:
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        self.process.stdout.readline()


def resident(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    return 0


def most_memory(work: Callable[[], None]) -> float:
    """Gigabytes that a step takes beside what was there before it, as Linux tells."""
    Path("/proc/self/clear_refs").write_text("5")  # the most ever starts anew
    before = resident("VmRSS")
    work()
    return (resident("VmHWM") - before) / 1e9


def told(values: list[float], unit: str = "") -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{statistics.median(values):.2f}{unit} [{low:.2f}, {high:.2f}]"


def measure(
    ways: dict[str, tuple[Any, Callable[[], None]]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every round and gigabytes of each way; the first two steps of each make moments and warm up."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    memory: dict[str, float] = {}
    for turn in range(-2, rounds):
        for way, (block, work) in ways.items():
            with block():
                if turn == -1:
                    memory[way] = most_memory(work)
                    continue
                started = time.perf_counter()
                work()
                if turn >= 0:
                    times[way].append(time.perf_counter() - started)
    return times, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--of", nargs="+", default=["topk", "hsae"], help="what to measure")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    flat = {"architecture": "topk", "d_sae": asked.latents}
    tree = {"architecture": "hsae", "n_parents": asked.latents, "n_children": 16, "d_subspace": 4}
    cheap = {"lambda_ortho": 0.0, "l1_over": "active"}
    python = os.environ.get("HSAE_PEERS_PYTHON")
    peer = Peer(python, D_IN, asked.latents, K, asked.batch) if python else None
    configs = {"topk": flat, "hsae": {**tree, **cheap}}
    for name in asked.of:
        plain, whole = steps({"d_in": D_IN, "k": K, **configs[name]}, asked.batch)
        works = {name: plain, f"{name}, trainer": whole}
        ways: dict[str, tuple[Any, Callable[[], None]]] = {}
        for way, work in works.items():
            ways[f"{way}, dense"] = dense, work
            ways[way] = nullcontext, work
        pairs = [(way, f"{way}, dense") for way in works]
        if peer is not None:
            ways[peer.name] = nullcontext, peer.step
            pairs += [(way, peer.name) for way in works]
        times, memory = measure(ways, asked.rounds)
        for way, found in times.items():
            took = "" if peer is not None and way == peer.name else f"{memory[way]:.2f} GB"
            print(f"{way:22} {told(found, ' s'):26}  {took}".rstrip())
        for way, other in pairs:
            ratios = [a / b for a, b in zip(times[way], times[other], strict=True)]
            print(f"{way} / {other}: {told(ratios)}", flush=True)


if __name__ == "__main__":
    main()
