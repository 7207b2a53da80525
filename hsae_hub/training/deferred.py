"""Adam's steps without a gradient, taken by a block when it is next read: deferred, not left out.

In such a step the moments shrink and the block still moves. With `m` and `v` as they were after step `t`, step `s`
moves it by `lr_s · m β₁^(s-t) / (1 - β₁^s) / (√(v β₂^(s-t) / (1 - β₂^s)) + ε)`. But for ε that is `m / √v` times a
number, so that many steps are one; and ε is taken at the mean of what the steps divide it by.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Int64
from torch import Tensor

from hsae_hub.ops.kernels import update
from hsae_hub.ops.kernels.uses import Learned, Missed
from hsae_hub.recipes import TrainSection
from hsae_hub.training.optim import EPS, learning_rate

_NEGLIGIBLE = 1e-10
"""Share of a block's first missed step from which on it has come to rest."""
_BLOCKS = 4096
"""Blocks that catch up together: their steps one by one are a few megabytes."""


class Schedule:
    """What each step of a run does to a block that has no gradient in it."""

    def __init__(self, train: TrainSection) -> None:
        beta1, beta2 = train.betas
        self._beta1, self._beta2 = beta1, beta2
        self._shrink = beta1 / math.sqrt(beta2)
        steps = torch.arange(1, train.n_steps + 1, dtype=torch.float64)
        rates = [learning_rate(step, train) for step in range(train.n_steps)]
        self._root = (1 - beta2**steps).sqrt()
        self._sizes = torch.tensor(rates, dtype=torch.float64) * self._root / (1 - beta1**steps)

    @staticmethod
    def suits(train: TrainSection) -> bool:
        """Whether a block without a gradient comes to rest: its moments shrink so that its steps do."""
        beta1, beta2 = train.betas
        return 0 < beta1 < math.sqrt(beta2)

    def missed(self, clocks: Int64[Tensor, " blocks"], now: int) -> Missed:
        """What blocks have missed that were last up to date after `clocks` steps, when `now` steps are done."""
        since, kinds = torch.unique(clocks, return_inverse=True)
        gaps = now - since
        longest = min(int(gaps.max()), math.ceil(math.log(_NEGLIGIBLE) / math.log(self._shrink)))
        i = torch.arange(1, longest + 1)
        at = (since[:, None] + i - 1).clamp_max(len(self._sizes) - 1)
        motion = self._sizes[at] * self._shrink**i
        motion = torch.where(i <= gaps[:, None], motion, 0.0)
        stretch = self._root[at] * self._beta2 ** (-i / 2)
        eps = EPS * (motion * stretch).sum(1) / motion.sum(1).clamp_min(1e-300)
        return Missed(
            kinds, motion, eps.float(), (self._beta1**gaps).float(), (self._beta2**gaps).float()
        )


def as_blocks(learned: Learned, n: int) -> Learned:
    """Of tensors of a parameter's shape, `n` blocks of rows."""
    return Learned(*(x.view(n, -1, x.shape[-1]) for x in learned))


@torch.no_grad()
def catch_up_(
    learned: Learned,
    clock: Int64[Tensor, " n"],
    stale: Int64[Tensor, " stale"],
    now: int,
    schedule: Schedule,
    *,
    unit: bool,
) -> None:
    """Brings blocks of a table that are behind up to date, in place, their clocks too."""
    for blocks in torch.split(stale, _BLOCKS):
        missed = schedule.missed(clock[blocks], now)
        update.catch_up_(learned, blocks, missed, unit=unit)
    clock[stale] = now


def settle_(
    weights: dict[str, Tensor],
    moments: dict[str, Tensor],
    unit_rows: tuple[str, ...],
    train: TrainSection,
) -> dict[str, Tensor]:
    """Brings everything in a checkpoint up to date, in place; returns the moments without clocks.

    `moments` are by parameter number and name, `weights` hold the parameters first, in the same order.
    """
    kept = {key: value for key, value in moments.items() if not key.endswith(".clock")}
    for i, (name, table) in enumerate(weights.items()):
        clock = moments.get(f"{i}.clock")
        if clock is None:
            continue
        now = int(moments[f"{i}.step"])
        found = Learned(table, moments[f"{i}.exp_avg"], moments[f"{i}.exp_avg_sq"])
        learned = as_blocks(found, len(clock))
        stale = (clock < now).nonzero()[:, 0]
        catch_up_(learned, clock, stale, now, Schedule(train), unit=name in unit_rows)
    return kept
