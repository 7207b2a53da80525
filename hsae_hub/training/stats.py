"""What is known of every latent once training is over: how often it acts, and how strongly at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hsae_hub.activations import Batches
from hsae_hub.architectures import SAE
from hsae_hub.artifact import LatentTable
from hsae_hub.metrics import LatentStats
from hsae_hub.ops import collective


@torch.no_grad()
def latent_tables(
    saes: dict[str, SAE[Any]],
    stream: Batches,
    tokens: int,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, LatentTable]:
    """A table for each SAE, from `tokens` further activations of the stream, rounded up to whole batches.

    Each of several processes measures its part of the batches, and all have the tables.
    """
    stats = {name: LatentStats(sae.d_sae) for name, sae in saes.items()}
    done = 0
    while done < tokens:
        x = stream.next_batch().float()
        done += collective.total_count(len(x))
        norms = x.norm(dim=-1)
        for name, sae in saes.items():
            acts = sae.encode(x)
            stats[name].update(acts.values, acts.indices, norms)
        if on_progress:
            on_progress(min(done, tokens), tokens)
    for found in stats.values():
        found.pool(collective.total, collective.all_rows)
    return {
        name: LatentTable(found.p999(), found.density(), found.tokens)
        for name, found in stats.items()
    }
