"""Intervals against known distributions and a loop over samples."""

import numpy as np
import pytest
from scipy import stats

from hsae_hub.evaluation import bootstrap


def test_the_interval_of_a_mean_is_student_s_where_that_holds():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = bootstrap.of_mean(values, seed=0)
    low, high = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)
    assert found == bootstrap.of_mean(values, seed=0) != bootstrap.of_mean(values, seed=1)


def test_a_ratio_of_sums_is_drawn_by_units_and_not_by_their_parts():
    rng = np.random.default_rng(2)
    sizes = rng.integers(5, 50, 30).astype(float)
    sums = np.stack([sizes * rng.normal(0.5, 0.3, 30), sizes], 1)
    found = bootstrap.of_sums(sums, lambda s: {"mean": s[:, 0] / s[:, 1]}, seed=0)["mean"]
    drawn = []
    for _ in range(2000):
        some = sums[rng.integers(0, 30, 30)]
        drawn.append(some[:, 0].sum() / some[:, 1].sum())
    assert found.value == pytest.approx(sums[:, 0].sum() / sums[:, 1].sum())
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)


def test_a_mean_over_groups_counts_every_group_once():
    groups = [np.zeros(1000), np.ones(10)]
    assert bootstrap.of_means(groups, seed=0).value == 0.5
    one = bootstrap.of_means([np.ones(1), np.zeros(9)], seed=0)
    assert (one.value, one.low, one.high) == (0.5, None, None)
    with pytest.raises(ValueError, match="no units"):
        bootstrap.of_means([], seed=0)


def test_many_units_are_drawn_in_blocks(monkeypatch):
    whole = bootstrap.of_mean(np.arange(50.0), seed=3)
    monkeypatch.setattr("hsae_hub.metrics._DRAWN", 50 * 7)
    assert bootstrap.of_mean(np.arange(50.0), seed=3) == pytest.approx(whole)
