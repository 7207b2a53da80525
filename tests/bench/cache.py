"""Read throughput of a store of activations beside plain sequential `numpy.memmap` reads of the same files.

    python tests/bench/cache.py [--rounds 5] [--quick]

Both read the whole store of 1 GB; every batch is a fresh array in memory. `warm` files are in the page cache; for
`cold` the system is asked to drop them first. The store (width 2304, bfloat16) is made and removed.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import Findings, Scale, Took, interleaved, run_part, timed
from harness.memory import forget

from hsae_hub.activations import CachedStream
from hsae_hub.activations.shards import open_store, write_shard
from hsae_hub.activations.statistics import RowStatistics
from hsae_hub.activations.store import STORE, Plan, StoreConfig, shard_name
from hsae_hub.artifact import HookpointConfig, ModelConfig, TokensConfig
from hsae_hub.recipes import load_recipe

WIDTH = 2304
SHARDS = 4


def make_store(folder: Path, gigabytes: float) -> None:
    """Random rows."""
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


def sequential(folder: Path, batch_size: int) -> None:
    """By numpy, in the order of the files."""
    store = open_store(folder)
    for number, offset in enumerate(store.offsets):
        shape = (store.config.shards[number].rows, 2 * WIDTH)
        path = folder / shard_name(number)
        values = np.memmap(path, np.uint8, "r", offset, shape)
        for at in range(0, len(values), batch_size):
            np.array(values[at : at + batch_size])


def streamed(folder: Path, batch_size: int) -> None:
    """As training reads them, which reads ahead."""
    stream = CachedStream(folder, batch_size=batch_size, seed=0)
    for _ in range(open_store(folder).config.activations // batch_size):
        stream.next_batch()
    stream.close()


def measure(found: Findings, scale: Scale) -> None:
    """In the paper's batches and in smaller ones."""
    megabytes = scale.pick(1000, 20)
    found.sizes = {"d_in": WIDTH, "MB": megabytes}
    readers = {"memmap": sequential, "store": streamed}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_store(folder, megabytes / 1000)
        for state in ("warm", "cold"):
            for batch_size in (scale.pick(32_512, 256), scale.pick(4096, 64)):

                def turn(
                    reader: str, size: int = batch_size, is_cold: bool = state == "cold"
                ) -> Took:
                    if is_cold:
                        forget(*folder.glob("*.safetensors"))
                    return timed(partial(readers[reader], folder, size))

                ways = {
                    f"{state}, {batch_size}: {reader}": partial(turn, reader) for reader in readers
                }
                found.add_times(interleaved(ways, scale.rounds))
                store, memmap = (
                    f"{state}, {batch_size}: {reader}" for reader in ("store", "memmap")
                )
                found.ratio(store, memmap)


if __name__ == "__main__":
    run_part(Findings(part="cache", title="Reading a store"), measure)
