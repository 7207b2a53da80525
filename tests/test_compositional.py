"""`compositional` against NumPy, in float64 (its paper, eq. 1-5); gradients by complex steps, which are exact."""

from pathlib import Path
from typing import Any

import compositional_numpy as oracle
import numpy as np
import pytest
import torch

from hsae_hub.architectures import TrainStep, parse_config
from hsae_hub.architectures.compositional import CompositionalConfig, CompositionalSAE
from hsae_hub.artifact import read_artifact, save_sae
from hsae_hub.errors import UsageError

TWO: dict[str, Any] = {"widths": [7, 5], "lambda_sparsity": 0.3, "lambda_composition": 0.2}
THREE: dict[str, Any] = {**TWO, "widths": [7, 5, 4], "starts": [0, 0.2, 0.3]}
FIRST: dict[str, Any] = {
    **TWO,
    "widths": [6, 6],
    "compose_through": "first",
    "reallocate_every": None,
}
CASES = pytest.mark.parametrize("case", [TWO, THREE, FIRST, {**TWO, "tied": False}])
FADING = TrainStep(32, 100)
"""A stage from 0.3 to the end fades in until 0.37."""


def make(**settings: Any) -> CompositionalSAE:
    """In double precision, off its initial weights and statistics."""
    sae = CompositionalSAE(CompositionalConfig(d_in=6, **settings))
    sae.reset_parameters(torch.Generator().manual_seed(1))
    sae = sae.double()
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in sae.weights().values():
            tensor.add_(0.2 * torch.rand(tensor.shape, generator=noise, dtype=torch.float64))
    return sae


def batch(rows: int = 30, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(rows, 6, generator=generator, dtype=torch.float64)


def as_numpy(sae: CompositionalSAE) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in sae.weights().items()}


@CASES
def test_forward_agrees_with_the_formula(case: dict[str, Any]) -> None:
    sae, x = make(**case), batch()
    w = as_numpy(sae)
    acts = oracle.tier_acts(w, x.numpy(), first=case is FIRST, training=False)
    out = sae(x)
    dense = out.acts.dense().detach().numpy()
    np.testing.assert_allclose(dense, np.concatenate(acts, 1), rtol=1e-6, atol=1e-9)
    wanted = w["b_dec"] + sum(act @ oracle.decoder(w, i) for i, act in enumerate(acts, start=1))
    np.testing.assert_allclose(out.sae_out.detach().numpy(), wanted, rtol=1e-6, atol=1e-9)
    assert all((act > 0).any() and (act == 0).any() for act in acts)


@CASES
def test_losses_gradients_and_statistics_agree_with_the_formula(case: dict[str, Any]) -> None:
    starts = case.get("starts", [0, 0.3])
    sae, x = make(**{**case, "starts": starts}), batch()
    w = as_numpy(sae)
    fade = (0.32 - 0.3) / (0.1 * 0.7)
    shares = [1.0, 1.0, fade] if len(starts) == 3 else [1.0, fade]
    losses = sae.losses(x, FADING)
    wanted = oracle.loss_parts(w, x.numpy(), shares, first=case is FIRST)
    assert losses.keys() == wanted.keys()
    for name, value in wanted.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-9), name

    losses["loss"].backward()
    for name, parameter in sae.named_parameters():
        gradient = np.zeros(parameter.shape)
        for place in np.ndindex(*parameter.shape):
            moved = w | {name: w[name].astype(complex)}
            moved[name][place] += 1e-30j
            stepped = oracle.loss_parts(moved, x.numpy(), shares, first=case is FIRST)
            gradient[place] = np.imag(stepped["loss"]) / 1e-30
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), gradient, rtol=1e-6, atol=1e-9)

    acts = oracle.tier_acts(w, x.numpy(), first=case is FIRST, training=True)
    assert all((act > 0).any(0).all() for act in acts[:-1]), "or their statistics would stay"
    for act, end in zip(acts[:-1], ["", "_2"], strict=False):
        mean, var = 0.9 * w["bn_mean" + end] + 0.1 * act.mean(0), 0.9 * w["bn_var" + end]
        var += 0.1 * act.var(0, ddof=1)
        np.testing.assert_allclose(sae.weights()["bn_mean" + end].numpy(), mean, rtol=1e-9)
        np.testing.assert_allclose(sae.weights()["bn_var" + end].numpy(), var, rtol=1e-9)


def test_encoding_changes_no_statistic_and_needs_no_batch() -> None:
    sae, x = make(**TWO), batch()
    before, whole = as_numpy(sae), sae.encode(x).dense()
    one = torch.cat([sae.encode(row[None]).dense() for row in x])
    torch.testing.assert_close(one, whole, rtol=1e-12, atol=1e-12)
    assert all(np.array_equal(before[name], value) for name, value in as_numpy(sae).items())


def test_statistics_are_of_batches_where_a_latent_acts() -> None:
    sae, x = make(**TWO), batch()
    with torch.no_grad():
        sae.get_parameter("b_1")[2] = -1e3
    before = as_numpy(sae)
    sae.losses(x, TrainStep(99, 100))
    after = as_numpy(sae)
    for name in ("bn_mean", "bn_var"):
        assert np.array_equal(np.flatnonzero(after[name] == before[name]), [2])


def test_the_curriculum_brings_in_one_tier_after_the_other() -> None:
    sae, x = make(**TWO), batch()
    optimizer = torch.optim.SGD(sae.parameters(), lr=0.0)
    alone = sae.losses(x, TrainStep(50, 100))
    assert alone["composition"] == 0
    alone["loss"].backward()
    assert sae.get_parameter("W_1").grad is not None and sae.get_parameter("W_2").grad is None
    withheld = {}
    for done in (1, 50, 52, 55, 100):
        sae.after_update(TrainStep(done - 1, 100), optimizer)
        withheld[done] = sae.held_back.tolist()
    assert withheld[1] == withheld[50] == [0, 1] and withheld[55] == withheld[100] == [0, 0]
    assert withheld[52] == pytest.approx([0, 0.6])
    sae.after_update(TrainStep(0, 100), optimizer)
    assert not sae.encode(x).dense()[:, 7:].any(), "inference follows the curriculum while it lasts"
    sae.reset_counters()
    assert sae.encode(x).dense()[:, 7:].any()


def test_own_decoders_keep_rows_of_norm_one() -> None:
    sae = make(**TWO, tied=False)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    sae.after_update(TrainStep(98, 100), optimizer)
    sae.losses(batch(), TrainStep(99, 100))["loss"].backward()
    sae.before_update()
    for name in ("W_dec_1", "W_dec_2"):
        rows = sae.get_parameter(name)
        assert rows.grad is not None
        torch.testing.assert_close((rows.grad * rows).sum(1), torch.zeros_like(rows[:, 0]))
    optimizer.step()
    sae.after_update(TrainStep(99, 100), optimizer)
    rows = sae.get_parameter("W_dec_2")
    torch.testing.assert_close(rows.norm(dim=1), torch.ones_like(rows[:, 0]))


@pytest.mark.parametrize("tied", [True, False])
def test_dead_latents_move_to_the_tier_that_explains_most_a_latent(tied: bool) -> None:
    sae, x = make(**TWO, tied=tied, reallocate_every=2), batch()
    dead = [1, 3]  # in tier 2, and two in tier 1, which have to stay
    with torch.no_grad():
        sae.get_parameter("b_2")[dead] = -1e3
        sae.get_parameter("b_1")[[0, 5]] = -1e3
        sae.get_parameter("W_1").mul_(0.4)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-9)
    gains = []
    for step in (TrainStep(80, 100), TrainStep(81, 100)):
        w = as_numpy(sae)
        optimizer.zero_grad()
        sae.losses(x, step)["loss"].backward()
        sae.before_update()
        optimizer.step()
        acts = oracle.tier_acts(w, x.numpy(), first=False, training=True)
        error = (
            x.numpy() - w["b_dec"] - sum(a @ oracle.decoder(w, i + 1) for i, a in enumerate(acts))
        )
        without = [error + a @ oracle.decoder(w, i + 1) for i, a in enumerate(acts)]
        gains.append([((e**2).sum() - (error**2).sum()) / len(x) for e in without])
        if step.step == 80:
            sae.after_update(step, optimizer)
    np.testing.assert_allclose(sae.gain.numpy(), np.mean(gains, 0), rtol=1e-6)
    fires = np.concatenate([(act > 0).sum(0) for act in acts])
    assert np.array_equal(sae.fires.numpy() > 0, fires > 0) and not fires[[0, 5, 8, 10]].any()
    to = int(np.argmax(np.mean(gains, 0) / [7, 5]))
    old, state = as_numpy(sae), {n: optimizer.state[p] for n, p in sae.named_parameters()}
    moments = {name: value["exp_avg"].numpy().copy() for name, value in state.items()}
    sae.after_update(TrainStep(81, 100), optimizer)

    live = [[1, 2, 3, 4, 6], [0, 2, 4]]
    kept = [live[0], list(range(5))] if to == 1 else [list(range(7)), live[1]]
    gone = [[0, 5], []] if to == 1 else [[], dead]
    moved = len(gone[0] + gone[1])
    assert sae.config.widths == tuple(len(kept[i]) + moved * (i == to) for i in (0, 1))
    assert sae.d_sae == 12 and sae.window_steps == 0 and not sae.fires.any()
    new = as_numpy(sae)
    arrived = np.concatenate([old["W_1"][:, gone[0]], old["W_2"][:, gone[1]]], 1)
    for i in (0, 1):
        wanted = old[f"W_{i + 1}"][:, kept[i]]
        wanted = np.concatenate([wanted, arrived], 1) if i == to else wanted
        np.testing.assert_array_equal(new[f"W_{i + 1}"], wanted)
        n = len(kept[i])
        np.testing.assert_array_equal(new[f"b_{i + 1}"][:n], old[f"b_{i + 1}"][kept[i]])
        assert not new[f"b_{i + 1}"][n:].any()
    n, m = map(len, kept)
    np.testing.assert_array_equal(new["W_c"][:n, :m], old["W_c"][np.ix_(*kept)])
    assert not new["W_c"][n:].any() and not new["W_c"][:, m:].any()
    for name, fill in (("bn_mean", 0), ("bn_var", 1), ("bn_weight", 1), ("bn_bias", 0)):
        np.testing.assert_array_equal(new[name][:n], old[name][kept[0]])
        assert (new[name][n:] == fill).all()
    for parameter in sae.parameters():
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
        assert optimizer.state[parameter]["exp_avg_sq"].shape == parameter.shape
    assert len(optimizer.state) == len(list(sae.parameters()))
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in sae.parameters()}
    average = optimizer.state[sae.get_parameter("W_c")]["exp_avg"].numpy()
    np.testing.assert_array_equal(average[:n, :m], moments["W_c"][np.ix_(*kept)])
    assert not average[n:].any() and not average[:, m:].any()
    if not tied:
        rows = np.concatenate([old["W_dec_1"][gone[0]], old["W_dec_2"][gone[1]]])
        np.testing.assert_allclose(new[f"W_dec_{to + 1}"][len(kept[to]) :], rows, rtol=1e-12)


def test_moving_the_dead_leaves_the_living_as_they_were() -> None:
    sae, x = make(**TWO, reallocate_every=1), batch()
    with torch.no_grad():
        sae.get_parameter("b_2")[[0, 3]] = -1e3
        sae.get_parameter("W_c")[:, [0, 3]] = 0  # or they would still lend it their directions
    sae.losses(x, TrainStep(80, 100))
    sae.gain.copy_(torch.tensor([1.0, 0.0]))
    before = sae.encode(x).dense()
    sae.after_update(TrainStep(80, 100), torch.optim.Adam(sae.parameters()))
    assert sae.config.widths == (9, 3)
    after = sae.encode(x).dense()
    torch.testing.assert_close(after[:, [*range(7), 9, 10, 11]], before[:, [*range(7), 8, 9, 11]])


def test_a_tier_keeps_its_last_latent_and_none_moves_near_the_end() -> None:
    sae, x = make(**TWO, reallocate_every=3), batch()
    with torch.no_grad():
        sae.get_parameter("b_2").fill_(-1e3)
    optimizer = torch.optim.SGD(sae.parameters(), lr=0.0)
    for i in range(94, 97):
        sae.losses(x, TrainStep(i, 99))
        sae.after_update(TrainStep(i, 99), optimizer)
    assert sae.config.widths == (7, 5) and sae.window_steps == 0
    for i in range(93, 96):
        sae.losses(x, TrainStep(i, 99))
        sae.gain.copy_(torch.tensor([1.0, 0.0]))
        sae.after_update(TrainStep(i, 99), optimizer)
    assert sae.config.widths == (11, 1)


def train(sae: CompositionalSAE, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for i in range(first, last):
        optimizer.zero_grad()
        loss = sae.losses(batch(seed=i), TrainStep(i, 40))[
            "loss"
        ]  # the last one's graph still lives
        loss.backward()
        sae.before_update()
        optimizer.step()
        sae.after_update(TrainStep(i, 40), optimizer)


def test_an_artifact_has_the_boundary_that_training_left(tmp_path: Path) -> None:
    whole = make(**{**TWO, "starts": [0, 0.1], "reallocate_every": 4})
    with torch.no_grad():
        whole.get_parameter("b_2")[[1, 3]] = -1e3
        whole.get_parameter("b_1")[[0, 5]] = -1e3
    train(whole, torch.optim.Adam(whole.parameters(), lr=1e-2, fused=True), 0, 18)
    assert whole.config.widths != (7, 5)
    save_sae(whole, tmp_path)
    loaded = read_artifact(tmp_path).sae
    assert loaded.config == whole.config and loaded.config.widths == whole.config.widths
    assert loaded.weights().keys() == {
        *("W_1", "W_2", "W_c", "b_1", "b_2", "b_dec"),
        *("bn_mean", "bn_var", "bn_weight", "bn_bias"),
    }
    assert loaded.weights()["W_c"].shape == whole.config.widths
    assert torch.equal(loaded(batch()).sae_out, whole(batch()).sae_out)


def test_the_report_agrees_with_the_formula() -> None:
    sae, x = make(**THREE, normalize="standardize"), batch() * 3 + 1
    sae.fit_normalization(x)
    w = as_numpy(sae)
    mean, std = w.pop("norm_mean"), w.pop("norm_std")
    acts = oracle.tier_acts(w, (x.numpy() - mean) / std, first=False, training=False)
    parts = [act @ oracle.decoder(w, i) * std for i, act in enumerate(acts, start=1)]
    start = x.numpy() - (w["b_dec"] * std + mean)

    def explained(tiers: list[int]) -> float:
        return (start**2).sum() - ((start - sum(parts[i] for i in tiers)) ** 2).sum()

    report = sae.report(x)
    for i in range(3):
        alone, last = (
            explained([i]),
            explained([0, 1, 2]) - explained([j for j in range(3) if j != i]),
        )
        wanted = (alone + last) / 2 / explained([0, 1, 2])
        assert report[f"explained_share_{i + 1}"] == pytest.approx(wanted, rel=1e-6)
        assert report[f"l0_{i + 1}"] == pytest.approx((acts[i] > 0).sum(1).mean())
    for i, name in ((1, "W_c"), (2, "W_c_2")):
        error = ((acts[i] - acts[i - 1] @ w[name]) ** 2).sum()
        wanted = 1 - error / ((acts[i] - acts[i].mean(0)) ** 2).sum()
        assert report[f"composition_coverage_{i + 1}"] == pytest.approx(wanted, rel=1e-6)
    assert sum(report[f"explained_share_{i}"] for i in (1, 2, 3)) == pytest.approx(1)
    assert len(report) == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": [4]}, "widths"),
        ({"widths": [4, 4, 4]}, r"starts \(=\[0.0, 0.5\]\) must rise from 0"),
        ({"widths": [4, 4], "starts": [0.1, 0.5]}, "must rise from 0"),
        ({"widths": [4, 4], "starts": [0, 0]}, "must rise from 0"),
        ({"widths": [4, 5], "compose_through": "first", "reallocate_every": None}, "equal widths"),
        ({"widths": [4, 4], "compose_through": "first"}, r"reallocate_every \(=1000\) null"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_config({"architecture": "compositional", "d_in": 6, **settings})
