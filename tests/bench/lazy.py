"""Opening a tree and taking its first tokens apart: mapped from disk (`lazy=True`) beside read whole.

    python tests/bench/lazy.py [--rounds 5] [--quick]

d_in 2304, 16,384 parents with 16 children in 8 dimensions: 2.7 GB, made and removed. A reading opens the folder and
decomposes, by `sae(x)` and `decoder_rows`; each is a fork of its own, whose imports are not in it. `warm` files are in
the page cache; for `cold` the system is asked to drop them first. Memory is what belongs to the process alone
(RssAnon): pages of a mapped file are the system's to take back.
"""

from __future__ import annotations

import tempfile
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from harness import Findings, Scale, Took, interleaved, run_part, timed
from harness.memory import forget, resident, settle
from harness.training import tree

from hsae_hub.architectures import build
from hsae_hub.artifact import WEIGHTS, save_sae
from hsae_hub.hub import load


def opened(folder: Path, how: str, tokens: int) -> object:
    """What a first decomposition leaves in memory."""
    sae = load(folder, lazy=how == "lazy")
    x = torch.randn(tokens, sae.d_in, generator=torch.Generator().manual_seed(0))
    return sae, sae.decoder_rows(sae(x).acts.indices)


def child(answer: Connection, folder: Path, how: str, tokens: int) -> None:
    """One reading, and the memory that it took."""
    settle()
    before, kept = resident("RssAnon"), []
    took = timed(lambda: kept.append(opened(folder, how, tokens)))
    answer.send((took, resident("RssAnon") - before))


def read(folder: Path, how: str, tokens: int, cold: bool, memory: dict[str, list[float]]) -> Took:
    """One reading in a process of its own, whose memory is noted."""
    if cold:
        forget(folder / WEIGHTS)
    fork = get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=child, args=(theirs, folder, how, tokens))
    process.start()
    theirs.close()
    took: Took
    took, taken = ours.recv()
    process.join()
    memory.setdefault(f"{how}, {tokens}", []).append(taken)
    return took


def measure(found: Findings, scale: Scale) -> None:
    """Warm, then cold."""
    d, n, k, _ = scale.sizes()
    found.sizes = {"d_in": d, "parents": n, "k": k, "children": 16, "subspace": 8}
    with tempfile.TemporaryDirectory() as name:
        small, folder = Path(name) / "small", Path(name) / "wide"
        save_sae(build(tree(d, 64, 8), seed=0), small)
        for how in ("lazy", "whole"):  # whatever is imported on the way, compiled kernels too
            opened(small, how, 64)
        save_sae(build(tree(d, n, k), seed=0), folder)
        size = (folder / WEIGHTS).stat().st_size
        for state, bar in (("warm", 0.02), ("cold", 0.20)):
            memory: dict[str, list[float]] = {}
            ways = {
                f"{state}: {how}, {count} token{'s' * (count > 1)}": partial(
                    read, folder, how, count, state == "cold", memory
                )
                for how, count in (("lazy", 1), ("lazy", 16), ("whole", 1))
            }
            found.add_times(interleaved(ways, scale.rounds, warmup=1 if state == "warm" else 0))
            found.ratio(f"{state}: lazy, 1 token", f"{state}: whole, 1 token", bar=bar)
            found.ratio(f"{state}: lazy, 16 tokens", f"{state}: whole, 1 token")
            found.add(f"{state}: file", [size] * scale.rounds, "bytes")
            for way, held in (("lazy, 1", 0.15), ("lazy, 16", None), ("whole, 1", None)):
                found.add(f"{state}: memory, {way}", memory[way][-scale.rounds :], "bytes")
                found.ratio(f"{state}: memory, {way}", f"{state}: file", bar=held)


if __name__ == "__main__":
    run_part(Findings(part="lazy", title="Opening a tree"), measure)
