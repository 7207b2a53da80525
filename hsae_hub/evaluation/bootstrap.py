"""95 % intervals by the bootstrap (Efron 1979): percentiles over samples drawn with replacement, always seeded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from hsae_hub.evaluation.report import Result
from hsae_hub.metrics import resampled_sums

Array = np.ndarray
_LEVEL = (2.5, 97.5)  # percentiles


class Interval(NamedTuple):
    """A number and its 95 % interval; None where there is nothing to draw from."""

    value: float
    low: float | None
    high: float | None

    def result(self, name: str, unit: str = "") -> Result:
        """The same under its name."""
        return Result(name=name, value=self.value, low=self.low, high=self.high, unit=unit)


def of_sums(
    sums: Float[Array, "n columns"],
    formula: Callable[[Float[Array, "b columns"]], dict[str, Float[Array, " b"]]],
    seed: int,
) -> dict[str, Interval]:
    """Intervals of numbers that follow from sums over `n` units, such as contexts; units are drawn.

    `formula` is given sums of all units of a sample, a sample a row.
    """
    found = {name: float(value[0]) for name, value in formula(sums.sum(0, keepdims=True)).items()}
    if len(sums) < 2:
        return {name: Interval(value, None, None) for name, value in found.items()}
    drawn = formula(resampled_sums(torch.from_numpy(sums), seed=seed).numpy())
    return {name: _interval(value, drawn[name]) for name, value in found.items()}


def of_mean(values: Sequence[float] | Float[Array, " n"], seed: int) -> Interval:
    """Interval of a mean over units."""
    return of_means([np.asarray(values, dtype=np.float64)], seed)


def of_means(groups: Sequence[Float[Array, " _"]], seed: int) -> Interval:
    """Interval of the mean over groups of each group's mean; units are drawn within their group.

    Raises:
        ValueError: there is no group, or one is empty.
    """
    if not groups or not all(len(group) for group in groups):
        raise ValueError("no units to take a mean of")
    value = float(np.mean([group.mean() for group in groups]))
    if min(len(group) for group in groups) < 2:
        return Interval(value, None, None)
    drawn = [
        resampled_sums(torch.from_numpy(group)[:, None], seed=seed + number)[:, 0] / len(group)
        for number, group in enumerate(groups)
    ]
    return _interval(value, torch.stack(drawn).mean(0).numpy())


def _interval(value: float, drawn: Float[Array, " b"]) -> Interval:
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn) or not np.isfinite(value):
        return Interval(value, None, None)
    low, high = np.percentile(drawn, _LEVEL)
    return Interval(value, float(low), float(high))


def mean_of(intervals: Sequence[Interval]) -> Interval:
    """Mean of numbers that were measured on data of their own: the widths add up as those of independent ones."""
    value = float(np.mean([each.value for each in intervals]))
    halves = [
        (each.high - each.low) / 2
        for each in intervals
        if each.low is not None and each.high is not None
    ]
    if len(intervals) == 1:
        return intervals[0]
    if len(halves) < len(intervals):
        return Interval(value, None, None)
    half = float(np.sqrt(np.square(halves).sum())) / len(halves)
    return Interval(value, value - half, value + half)
