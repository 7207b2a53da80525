"""Opening a tree and taking its first tokens apart: mapped from disk (`lazy=True`) beside read whole.

    python tests/bench/lazy.py [--rounds 5] [--quick]

d_in 2304, 16,384 parents with 16 children in 8 dimensions: 2.7 GB, made and removed. A reading opens the folder and
decomposes, by `sae(x)` and `decoder_rows`; each is a process of its own, whose imports are not in it. `warm` files are
in the page cache; for `cold` the system is asked to drop them first. Memory is what belongs to the process alone
(RssAnon): pages of a mapped file are the system's to take back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from harness import Findings, Scale, Took, interleaved, run_part
from harness.memory import forget
from harness.training import tree

from hsae_hub.architectures import build
from hsae_hub.artifact import WEIGHTS, save_sae

READING = """
import json, sys, time
import torch
torch.set_num_threads(1)
from harness.memory import resident
from hsae_hub.hub import load

def read(folder, lazy, tokens):
    sae = load(folder, lazy=lazy)
    x = torch.randn(tokens, sae.d_in, generator=torch.Generator().manual_seed(0))
    return sae, sae.decoder_rows(sae(x).acts.indices)

small, folder, how, tokens = sys.argv[1:]
read(small, how == "lazy", 64)  # whatever is imported on the way, compiled kernels too
before, wall, cpu = resident("RssAnon"), time.perf_counter(), time.process_time()
kept = read(folder, how == "lazy", int(tokens))
took = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps([*took, resident("RssAnon") - before]))
"""


def read(
    small: Path, folder: Path, how: str, tokens: int, cold: bool, memory: dict[str, list[float]]
) -> Took:
    """One reading in a process of its own, whose memory is noted."""
    if cold:
        forget(folder / WEIGHTS)
    words = [sys.executable, "-c", READING, str(small), str(folder), how, str(tokens)]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    wall, cpu, taken = json.loads(done.stdout)
    memory.setdefault(f"{how}, {tokens}", []).append(taken)
    return Took(wall, cpu)


def measure(found: Findings, scale: Scale) -> None:
    """Warm, then cold."""
    d, n, k, _ = scale.sizes()
    found.sizes = {"d_in": d, "parents": n, "k": k, "children": 16, "subspace": 8}
    with tempfile.TemporaryDirectory() as name:
        small, folder = Path(name) / "small", Path(name) / "wide"
        save_sae(build(tree(d, 64, 8), seed=0), small)
        save_sae(build(tree(d, n, k), seed=0), folder)
        size = (folder / WEIGHTS).stat().st_size
        for state, bar in (("warm", 0.02), ("cold", 0.20)):
            memory: dict[str, list[float]] = {}
            ways = {
                f"{state}: {how}, {count} token{'s' * (count > 1)}": partial(
                    read, small, folder, how, count, state == "cold", memory
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
