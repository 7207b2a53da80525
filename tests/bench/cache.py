"""Read throughput of a store of activations beside plain sequential `numpy.memmap` reads of the same files.

    python tests/bench/cache.py [--gigabytes 2] [--repeats 7] [--folder DIR]

Both read the whole store, turn about in one process; every batch is a fresh array in memory. `warm` files are in the
page cache; for `cold` the system is asked to drop them first. The store (width 2304, bfloat16) is made and removed.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hsae_hub.activations import CachedStream
from hsae_hub.activations.shards import open_store, write_shard
from hsae_hub.activations.statistics import RowStatistics
from hsae_hub.activations.store import STORE, Plan, StoreConfig, shard_name
from hsae_hub.artifact import HookpointConfig, ModelConfig, TokensConfig
from hsae_hub.recipes import load_recipe

WIDTH = 2304
SHARDS = 4


def make_store(folder: Path, gigabytes: float) -> None:
    rows = int(gigabytes * 1e9 / SHARDS / (2 * WIDTH))
    seen = RowStatistics(WIDTH)
    generator = torch.Generator().manual_seed(0)
    shards = []
    for number in range(SHARDS):
        values = torch.randn(rows, WIDTH, generator=generator, dtype=torch.bfloat16)
        shards.append(write_shard(folder / shard_name(number), values))
        seen.update(values[:4096])
    recipe = load_recipe("gemma-2-2b/l20_hsae-16kx16").recipe
    config = StoreConfig(
        plan=Plan.of(recipe),
        model=ModelConfig(id=recipe.model.id, dtype="bfloat16"),
        hookpoint=HookpointConfig(path="model.layers.20"),
        tokens=TokensConfig(context_length=257),
        d_in=WIDTH,
        activations=rows * SHARDS,
        contexts=1,
        special_dropped=0,
        shards=shards,
        statistics=seen.result(),
    )
    (folder / STORE).write_text(config.to_json())


def drop_caches(folder: Path) -> None:
    gc.collect()  # what is mapped is not dropped
    for path in folder.glob("*.safetensors"):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def sequential(folder: Path, batch_size: int) -> int:
    store, read = open_store(folder), 0
    for number, offset in enumerate(store.offsets):
        shape = (store.config.shards[number].rows, 2 * WIDTH)
        path = folder / shard_name(number)
        values = np.memmap(path, np.uint8, "r", offset, shape)
        for at in range(0, len(values), batch_size):
            read += np.array(values[at : at + batch_size]).nbytes
    return read


def streamed(folder: Path, batch_size: int) -> int:
    stream, read = CachedStream(folder, batch_size=batch_size, seed=0), 0
    for _ in range(open_store(folder).config.activations // batch_size):
        read += stream.next_batch().nbytes
    stream.close()
    return read


def rate(work: Callable[[Path, int], int], folder: Path, batch_size: int) -> float:
    started = time.perf_counter()
    return work(folder, batch_size) / (time.perf_counter() - started) / 1e9


def told(values: list[float]) -> str:
    return f"{statistics.median(values):5.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        make_store(folder, arguments.gigabytes)
        print("files  batch   memmap GB/s          CachedStream GB/s    ratio")
        for files in ("warm", "cold"):
            for batch_size in (32_512, 4_096):
                rates: dict[str, list[float]] = {"memmap": [], "stream": []}
                for _ in range(arguments.repeats):
                    for kind, work in (("memmap", sequential), ("stream", streamed)):
                        if files == "cold":
                            drop_caches(folder)
                        rates[kind].append(rate(work, folder, batch_size))
                ratios = [s / m for m, s in zip(rates["memmap"], rates["stream"], strict=True)]
                plain, ours = told(rates["memmap"]), told(rates["stream"])
                print(f"{files}  {batch_size:6,}   {plain:19}  {ours:19}  {told(ratios)}")


if __name__ == "__main__":
    main()
