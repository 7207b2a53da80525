"""Statistics of activations, chunk by chunk, in memory that does not grow; they can be saved and go on."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.activations.store import StoreStatistics

OUTLIER = 6
"""An outlier's norm is at least so many times the median."""
QUANTILES = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
_CHUNK = 4096  # rows that are converted together
_SHIFT = 13  # bits of a float32 that a bin leaves off: 10 of its mantissa stay, bins are 0.1 % wide


class RowStatistics:
    """Mean and spread of every dimension, and a histogram of the norms."""

    def __init__(self, d_in: int) -> None:
        self.rows = 0
        self._mean = torch.zeros(d_in, dtype=torch.float64)
        self._spread = torch.zeros(d_in, dtype=torch.float64)
        self._norm_sum = 0.0
        self._norm_square = 0.0
        self._norm_min = torch.finfo(torch.float32).max
        self._norm_max = 0.0
        self._bins = torch.zeros(1 << (31 - _SHIFT), dtype=torch.int64)

    @torch.no_grad()
    def update(self, rows: Float[Tensor, "rows d_in"]) -> None:
        """Adds rows, which have to be finite."""
        for at in range(0, len(rows), _CHUNK):
            self._add(rows[at : at + _CHUNK].float())

    def result(self) -> StoreStatistics:
        """What is known of all rows so far; there has to be one."""
        counts = self._bins.cumsum(0)
        quantiles = {
            str(q): _middle(int(torch.searchsorted(counts, math.ceil(q * self.rows))))
            for q in QUANTILES
        }
        above = _bin(OUTLIER * quantiles["0.5"]) + 1
        norm_mean = self._norm_sum / self.rows
        return StoreStatistics(
            norm_mean=norm_mean,
            norm_std=math.sqrt(max(0.0, self._norm_square / self.rows - norm_mean**2)),
            norm_min=self._norm_min,
            norm_max=self._norm_max,
            norm_quantiles=quantiles,
            outlier_above=_from_bits(above << _SHIFT),
            outliers=int(self._bins[above:].sum()),
            mean=self._mean.tolist(),
            std=(self._spread / self.rows).sqrt().tolist(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON that gives back the same numbers."""
        filled = self._bins.nonzero()[:, 0]
        return {
            "rows": self.rows,
            "mean": self._mean.tolist(),
            "spread": self._spread.tolist(),
            "norms": [self._norm_sum, self._norm_square, self._norm_min, self._norm_max],
            "bins": [filled.tolist(), self._bins[filled].tolist()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where others stood."""
        self.rows = state["rows"]
        self._mean = torch.tensor(state["mean"], dtype=torch.float64)
        self._spread = torch.tensor(state["spread"], dtype=torch.float64)
        self._norm_sum, self._norm_square, self._norm_min, self._norm_max = state["norms"]
        filled, counts = state["bins"]
        self._bins.zero_()[torch.tensor(filled, dtype=torch.int64)] = torch.tensor(
            counts, dtype=torch.int64
        )

    def _add(self, chunk: Float[Tensor, "rows d_in"]) -> None:
        # the chunk's own mean and spread, then merged (Chan, Golub & LeVeque 1983): no large sums cancel
        mean = chunk.mean(0)
        spread = (chunk - mean).square_().sum(0)
        n, total = len(chunk), self.rows + len(chunk)
        apart = mean.double() - self._mean
        self._spread += spread.double() + apart.square() * (self.rows * n / total)
        self._mean += apart * (n / total)
        self.rows = total
        norms = chunk.norm(dim=-1)
        self._norm_sum += float(norms.double().sum())
        self._norm_square += float(norms.double().square().sum())
        self._norm_min = min(self._norm_min, float(norms.min()))
        self._norm_max = max(self._norm_max, float(norms.max()))
        bits = norms.view(torch.int32) >> _SHIFT
        self._bins += torch.bincount(bits, minlength=len(self._bins))


def _bin(norm: float) -> int:
    return int(torch.tensor(norm, dtype=torch.float32).view(torch.int32)) >> _SHIFT


def _middle(number: int) -> float:
    return _from_bits((number << _SHIFT) + (1 << (_SHIFT - 1)))


def _from_bits(bits: int) -> float:
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))
