"""Opening a tree and taking 16 tokens apart: mapped from disk (`lazy=True`) beside read whole.

    python tests/bench/lazy.py [--parents 16384] [--repeats 5] [--folder DIR]

d_in 2304, 16 children in 8 dimensions: 2.7 GB at 16,384 parents, made and removed. Each reading is a process of its
own, turn about; imports are not in it. `warm` files are in the page cache; for `cold` the system is asked to drop them
first. Memory is what belongs to the process alone (RssAnon): pages of a mapped file are the system's to take back.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from hsae_hub.architectures import build
from hsae_hub.artifact import WEIGHTS, save_sae

READING = """
import json, re, sys, time
import torch
torch.set_num_threads(1)
from hsae_hub.hub import load

def own():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

def read(folder, lazy):
    sae = load(folder, lazy=lazy)
    opened = time.perf_counter()
    x = torch.randn(16, sae.d_in, generator=torch.Generator().manual_seed(0))
    sae.decoder_rows(sae(x).acts.indices)
    return sae, opened

read(sys.argv[1], False)  # whatever is imported on the way
before, started = own(), time.perf_counter()
sae, opened = read(sys.argv[2], sys.argv[3] == "lazy")
done = time.perf_counter()
print(json.dumps({"open": opened - started, "total": done - started, "memory": own() - before}))
"""


def drop_cache(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def read(small: Path, folder: Path, how: str) -> dict[str, float]:
    words = [sys.executable, "-c", READING, str(small), str(folder), how]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    numbers: dict[str, float] = json.loads(found.stdout)
    return numbers


def told(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parents", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    shape = {"architecture": "hsae", "d_in": 2304, "n_children": 16, "d_subspace": 8}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        small, folder = Path(name) / "small", Path(name) / "wide"
        save_sae(build({**shape, "n_parents": 64, "k": 8}, seed=0), small)
        wide = build({**shape, "n_parents": arguments.parents, "k": 32}, seed=0)
        save_sae(wide, folder)
        del wide
        size = (folder / WEIGHTS).stat().st_size
        print(f"{size / 1e9:.2f} GB, torch {torch.__version__}, medians with the range")
        print("files  how    open s                 first 16 tokens s      memory / file")
        for files in ("warm", "cold"):
            found: dict[str, list[dict[str, float]]] = {"lazy": [], "whole": []}
            for _ in range(arguments.repeats):
                for how, readings in found.items():
                    if files == "cold":
                        drop_cache(folder / WEIGHTS)
                    readings.append(read(small, folder, how))
            for how, readings in found.items():
                columns = [told([each[key] for each in readings]) for key in ("open", "total")]
                share = told([each["memory"] / size for each in readings])
                print(f"{files}   {how:5}  {columns[0]:22} {columns[1]:22} {share}")
            pairs = zip(found["lazy"], found["whole"], strict=True)
            print(
                f"{files}   lazy / whole, total: {told([a['total'] / b['total'] for a, b in pairs])}"
            )


if __name__ == "__main__":
    main()
