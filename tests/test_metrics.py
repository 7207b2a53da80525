"""Metrics against NumPy's own formulas."""

import numpy as np
import pytest
import torch

from hsae_hub.metrics import LatentStats, ReconstructionStats


def test_reconstruction_in_batches_agrees_with_the_formulas() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, (500, 7))
    x_hat = x + rng.normal(0, 0.5, x.shape)
    stats = ReconstructionStats(7)
    for part in np.array_split(np.arange(500), 6):
        stats.update(torch.tensor(x[part]), torch.tensor(x_hat[part]))
    error = ((x - x_hat) ** 2).sum()
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(x_hat, axis=1)
    assert stats.explained_variance() == pytest.approx(1 - error / ((x - x.mean(0)) ** 2).sum())
    assert stats.mse() == pytest.approx(error / 500)
    assert stats.cosine() == pytest.approx(((x * x_hat).sum(1) / norms).mean())
    np.testing.assert_allclose(stats.mean().numpy(), x.mean(0))


def test_predicting_the_mean_explains_nothing_and_a_constant_has_no_variance() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    stats = ReconstructionStats(3)
    stats.update(x, x.mean(0).expand(50, 3))
    assert stats.explained_variance() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="no variance"):
        ReconstructionStats(3).explained_variance()


def test_latent_stats_agree_with_numpy_percentiles() -> None:
    rng = np.random.default_rng(1)
    dense = rng.normal(0, 1, (4000, 5)) * (rng.random((4000, 5)) < [0.9, 0.5, 0.1, 0.01, 0.0])
    norms = rng.uniform(1, 9, 4000)
    stats = LatentStats(5)
    indices = torch.arange(5).expand(4000, 5)
    for part in np.array_split(np.arange(4000), 3):
        stats.update(torch.tensor(dense[part]), indices[part], torch.tensor(norms[part]))
    np.testing.assert_allclose(stats.density().numpy(), (dense != 0).mean(0), rtol=1e-6)
    relative = dense / norms[:, None]
    for latent, found in enumerate(stats.p999().tolist()):
        positive = relative[:, latent][relative[:, latent] > 0]
        wanted = np.percentile(positive, 99.9, method="inverted_cdf") if len(positive) else 0.0
        assert found == pytest.approx(wanted, rel=1e-6)
