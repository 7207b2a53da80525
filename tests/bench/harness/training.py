"""Training steps to measure: an SAE, a batch that never changes, and the trainer around both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hsae_hub.architectures import build
from hsae_hub.recipes import TrainSection
from hsae_hub.training.trainer import Trainer

AT = 5_000
"""The step that is measured: after every warm-up, before any latent can be dead."""


FREE = {"lambda_ortho": 0.0, "lambda_l1": 0.0}
"""An `hsae` without penalties."""


def flat(architecture: str, d_in: int, n: int, k: int) -> dict[str, Any]:
    """A flat SAE of `n` latents; `group` has no `k`."""
    shape = {"architecture": architecture, "d_in": d_in, "d_sae": n}
    return shape if architecture == "group" else {**shape, "k": k}


def tree(d_in: int, n: int, k: int, *, children: int = 16, subspace: int = 8) -> dict[str, Any]:
    """An `hsae` of `n` parents."""
    shape = {"architecture": "hsae", "d_in": d_in, "n_parents": n, "k": k}
    return {**shape, "n_children": children, "d_subspace": subspace}


class Same:
    """A stream of one batch."""

    tokens = 0
    wait_seconds = 0.0

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def next_batch(self) -> Tensor:
        """The batch."""
        return self.x


def sparse_tokens(W_dec: Tensor, batch: int, k: int) -> Tensor:
    """Rows of norm 1, each a sum of `k` decoder rows of Zipf's popularity with weights between 1 and 2."""
    generator = torch.Generator().manual_seed(0)
    popularity = 1 / torch.arange(1, len(W_dec) + 1)
    rows = torch.multinomial(popularity.expand(batch, -1), k, generator=generator)
    weights = 1 + torch.rand(batch, k, generator=generator)
    x = torch.nn.functional.embedding_bag(rows, W_dec, per_sample_weights=weights, mode="sum")
    return x / x.norm(dim=1, keepdim=True)


def trainer(config: dict[str, Any], batch: int) -> Trainer:
    """The trainer of one SAE, `AT` steps into its run; `advance` makes a step, with its clipping and constraints."""
    sae = build(config, seed=0)
    x = sparse_tokens(sae.W_dec.detach(), batch, config.get("k", 32))
    settings = {"lr": 1e-5, "warmup_steps": 0, "log_every": 10**6}
    section = TrainSection(steps=10**6, batch_size=batch, **settings)
    made = Trainer({"main": sae}, Same(x), section, command="")
    made.step = AT
    return made
