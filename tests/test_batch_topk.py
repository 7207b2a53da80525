"""`batch_topk` against NumPy, in float64 (Bussmann et al. 2024, arXiv 2412.06410)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batch_topk_numpy import Arrays, quiet_bias, running_average, train_step, unit

from hsae_hub.architectures import SAE, TrainStep, build
from hsae_hub.artifact import read_artifact, save_sae
from hsae_hub.errors import UsageError
from hsae_hub.ops import batch_top_k, find_dead_, pair_sum

CONFIG = {"architecture": "batch_topk", "d_in": 10, "d_sae": 24, "k": 3, "normalize": "unit_norm"}


def make(**settings: object) -> SAE[Any]:
    sae = build({**CONFIG, **settings}, seed=1).double()
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    return sae


def batch(seed: int = 3) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return 5 * torch.randn(30, 10, generator=noise, dtype=torch.float64)


def arrays(sae: SAE[Any]) -> Arrays:
    return {name: p.detach().numpy().copy() for name, p in sae.named_parameters()}


def test_outside_training_acts_above_the_threshold_stay() -> None:
    sae, x = make(), batch()
    sae.threshold.fill_(0.3)
    w, norms = arrays(sae), np.linalg.norm(x.numpy(), axis=1, keepdims=True) + 1e-6
    acts = (x.numpy() / norms - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    acts = np.where(acts > 0.3, acts, 0)
    assert 0 < (acts > 0).mean() < 0.5
    out = sae(x)
    np.testing.assert_allclose(out.acts.dense().detach().numpy(), acts * norms, rtol=1e-6)
    wanted = (acts @ w["W_dec"] + w["b_dec"]) * norms
    np.testing.assert_allclose(out.sae_out.detach().numpy(), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("aux_weight", [0.0, 0.5])
@pytest.mark.parametrize("n_dead", [0, 3, 9])
def test_losses_and_gradients_agree_with_the_formula(n_dead: int, aux_weight: float) -> None:
    sae, x = make(aux_weight=aux_weight), batch()
    normal, dead = unit(x.numpy()), list(range(4, 4 + n_dead))
    sae.b_enc.data = torch.from_numpy(quiet_bias(arrays(sae), normal, dead, 0.1))
    sae.tokens_since_fired[dead] = 3000
    wanted = train_step(arrays(sae), normal, 3, [24], dead if aux_weight else [], aux_weight)
    assert not wanted.kept[:, dead].any()
    assert wanted.grads["W_enc"][:, dead].any() == bool(n_dead and aux_weight)
    losses = sae.losses(x, TrainStep(1, 1000))
    losses["loss"].backward()
    assert losses["reconstruction"].item() == pytest.approx(wanted.squared[0], rel=1e-9)
    assert losses["aux"].item() == pytest.approx(wanted.aux, rel=1e-9)
    assert losses["loss"].item() == pytest.approx(wanted.loss, rel=1e-9)
    for name, parameter in sae.named_parameters():
        got = parameter.grad.numpy()
        np.testing.assert_allclose(got, wanted.grads[name], rtol=1e-6, atol=1e-12)


def test_dead_latents_are_those_that_training_acts_leave_out() -> None:
    sae = make(dead_after_tokens=60)
    w, since = arrays(sae), np.zeros(24)
    for i in range(3):
        losses = sae.losses(batch(i), TrainStep(i, 1000))
        kept = train_step(w, unit(batch(i).numpy()), 3, [24], [], 0).kept
        since = np.where((kept > 0).any(0), 0, since + 30)
    assert sae.tokens_since_fired.tolist() == since.tolist() and (since == 90).any()
    wanted = train_step(
        w, unit(batch(2).numpy()), 3, [24], np.flatnonzero(since >= 60).tolist(), 1 / 32
    )
    assert losses["aux"].item() == pytest.approx(wanted.aux) and wanted.aux > 0
    sae.reset_counters()
    assert not sae.tokens_since_fired.any() and sae.threshold.all()


@pytest.mark.parametrize("rate", [0.01, 0.5])
def test_the_threshold_is_a_running_average_of_the_smallest_kept_act(rate: float) -> None:
    sae, smallest = make(threshold_rate=rate), []
    w = arrays(sae)
    for i in range(5):
        sae.losses(batch(i), TrainStep(i, 1000))
        kept = train_step(w, unit(batch(i).numpy()), 3, [24], [], 0).kept
        smallest.append(kept[kept > 0].min())
        np.testing.assert_allclose(sae.threshold, running_average(smallest, rate), rtol=1e-6)
    l0 = sae.encode(torch.cat([batch(i) for i in range(5)])).l0().mean()
    assert l0.item() == pytest.approx(3, rel=0.1), "on average as many acts as in training"


def test_a_batch_without_acts_leaves_the_threshold() -> None:
    sae = make()
    sae.threshold.fill_(0.25)
    sae.b_enc.data.fill_(-50.0)
    loss = sae.losses(batch(), TrainStep(0, 10))["loss"]
    assert loss.isfinite() and torch.equal(sae.threshold, torch.full((24,), 0.25).double())
    assert sae.encode(batch()).l0().max() == 0


def test_decoder_rows_stay_unit() -> None:
    sae = make()
    sae.W_dec.data[:] = torch.from_numpy(unit(arrays(sae)["W_dec"]))
    rows = arrays(sae)["W_dec"]
    sae.losses(batch(), TrainStep(0, 10))["loss"].backward()
    along = (sae.W_dec.grad.numpy() * rows).sum(1, keepdims=True)
    wanted = sae.W_dec.grad.numpy() - along * rows
    sae.before_update()
    np.testing.assert_allclose(sae.W_dec.grad.numpy(), wanted, rtol=1e-6, atol=1e-12)
    optimizer = torch.optim.SGD(sae.parameters(), lr=0.1)
    optimizer.step()
    moved = rows - 0.1 * wanted
    sae.after_update(TrainStep(0, 10), optimizer)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(arrays(sae)["W_dec"], moved, rtol=1e-6)


def test_the_threshold_is_saved(tmp_path: Path) -> None:
    sae = make()
    for i in range(2):
        sae.losses(batch(i), TrainStep(i, 10))
    assert set(sae.weights()) == {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}
    save_sae(sae.float(), tmp_path)
    loaded = read_artifact(tmp_path).sae
    x = batch().float()
    assert torch.equal(loaded(x).sae_out, sae(x).sae_out) and loaded.threshold.all()


def test_ties_never_keep_more_than_the_batch_may_have() -> None:
    tokens, latents = batch_top_k(torch.ones(4, 6), 2)
    places = (tokens * 6 + latents).tolist()
    assert len(places) == 8 and places == sorted(set(places))


def test_bags_may_be_empty() -> None:
    table, bags = torch.eye(3), torch.tensor([1, 1, 3])
    sums = pair_sum(torch.tensor([2.0, 3.0, 4.0]), bags, torch.tensor([0, 1, 2]), table, 5)
    assert sums.tolist() == [[0, 0, 0], [2, 3, 0], [0, 0, 0], [0, 0, 4], [0, 0, 0]]


def test_a_latent_is_dead_no_later_than_after_a_tenth_of_the_run() -> None:
    since, acts = torch.zeros(3, dtype=torch.int64), torch.tensor([1.0, 0.0])
    for wanted in ([], [1, 2]):
        dead = find_dead_(
            since, acts, torch.tensor([0, 1]), tokens=5, dead_after_tokens=100, n_steps=15
        )
        assert dead.tolist() == wanted
    assert since.tolist() == [0, 10, 10]


def test_k_has_to_fit() -> None:
    with pytest.raises(UsageError, match=r"k \(=25\) must be at most d_sae \(=24\)"):
        make(k=25)
