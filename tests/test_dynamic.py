"""`dynamic` against NumPy, in float64 (the HierarchicalSAE paper)."""

from typing import Any

import numpy as np
import pytest
import torch

from hsae_hub.architectures import TrainStep, build, parse_config
from hsae_hub.architectures.dynamic import DynamicSAE
from hsae_hub.errors import UsageError
from hsae_hub.ops import similar_pairs

CONFIG = {"architecture": "dynamic", "d_in": 10, "d_sae": 24, "window": 4, "merge_every": 5}
STILL = {"resample": False, "track": False, "merge": False}
LR = 0.01
Weights = dict[str, np.ndarray]


def make(**settings: object) -> DynamicSAE:
    sae = build({**CONFIG, **settings}, seed=1).double()
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
        sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
    assert isinstance(sae, DynamicSAE)
    sae.fit_normalization(batch(99))
    return sae


def batch(seed: int = 3) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return 5 * torch.randn(30, 10, generator=noise, dtype=torch.float64) + 2


def as_numpy(sae: DynamicSAE) -> Weights:
    return {name: p.detach().numpy().copy() for name, p in sae.named_parameters()}


def standardize(x: torch.Tensor) -> np.ndarray:
    sample = batch(99).numpy()
    return (x.numpy() - sample.mean(0)) / sample.std(0, ddof=1)


def forward(w: Weights, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    acts = np.maximum(normal @ w["W_enc"] + w["b_enc"], 0)
    return acts, normal - acts @ w["W_dec"] - w["b_dec"]


def step(sae: DynamicSAE, optimizer: torch.optim.Optimizer, i: int, n_steps: int = 40) -> None:
    """One training step, as the trainer does it."""
    now = TrainStep(i, n_steps)
    optimizer.zero_grad()
    sae.losses(batch(i), now)["loss"].backward()
    sae.before_update()
    optimizer.step()
    sae.after_update(now, optimizer)


class Oracle:
    """Adam and all that is between its steps, from the definition; the draw of examples is given."""

    def __init__(self, sae: DynamicSAE) -> None:
        self.config = sae.config
        self.w = as_numpy(sae)
        self.moments = {name: [np.zeros_like(v), np.zeros_like(v)] for name, v in self.w.items()}
        self.history: list[np.ndarray] = []
        self.seen = np.zeros(24, int)
        self.resampled: list[list[int]] = []
        self.merged: list[list[tuple[int, int]]] = []

    def loss_and_gradients(self, x: np.ndarray, i: int, n_steps: int) -> dict[str, Any]:
        w, config = self.w, self.config
        acts, error = forward(w, x)
        reconstruction, l1 = (error**2).sum(1).mean(), acts.sum(1).mean()
        price = 24**-0.5 if config.lambda_0 is None else config.lambda_0
        if config.schedule:
            price *= 1 - i / n_steps
        if config.adaptive:
            price *= min(max(config.target_loss / reconstruction, 0.1), 2.0)
        to_acts = (-2 * error @ w["W_dec"].T + price) * (acts > 0) / len(x)
        gradients = {
            "W_enc": x.T @ to_acts,
            "b_enc": to_acts.sum(0),
            "W_dec": -2 * acts.T @ error / len(x),
            "b_dec": -2 * error.mean(0),
        }
        return {
            "loss": reconstruction + price * l1, "reconstruction": reconstruction, "l1": l1,
            "l1_weight": price, "gradients": gradients, "acts": acts,
            "squares": (error**2).sum(1),
        }  # fmt: skip

    def step(self, i: int, n_steps: int = 40) -> None:
        x = standardize(batch(i))
        found = self.loss_and_gradients(x, i, n_steps)
        D, G = self.w["W_dec"], found["gradients"]["W_dec"]
        G -= (G * D).sum(1, keepdims=True) * D
        for name, g in found["gradients"].items():
            first, second = self.moments[name]
            first[:] = 0.9 * first + 0.1 * g
            second[:] = 0.999 * second + 0.001 * g**2
            scaled = np.sqrt(second / (1 - 0.999 ** (i + 1))) + 1e-8
            self.w[name] = self.w[name] - LR * (first / (1 - 0.9 ** (i + 1))) / scaled
        self.w["W_enc"] *= 1 - LR * self.config.weight_decay
        self.w["b_enc"] *= 1 - LR * self.config.weight_decay
        self.w["W_dec"] /= np.linalg.norm(self.w["W_dec"], axis=1, keepdims=True)
        self.between(x, found, i)

    def between(self, x: np.ndarray, found: dict[str, Any], i: int) -> None:
        config = self.config
        self.history.append((found["acts"] > 0).mean(0))
        self.seen += 1
        free = set()
        if config.resample:
            for j in range(24):
                if config.track and self.seen[j] >= config.window:
                    rate = np.mean([rates[j] for rates in self.history[-config.window :]])
                elif not config.track and (i + 1) % config.window == 0:
                    rate = self.history[-1][j] if self.seen[j] >= config.window else 1.0
                else:
                    continue
                if rate < config.min_rate:
                    free.add(j)
        self.resampled.append(sorted(free))
        pairs = self.merge() if config.merge and (i + 1) % config.merge_every == 0 else []
        self.merged.append(pairs)
        free |= {second for _, second in pairs}
        self.restart(sorted(free), x, found["squares"], i)

    def merge(self) -> list[tuple[int, int]]:
        w = self.w
        pairs = brute_force_pairs(w["W_dec"], self.config.merge_cosine)
        for i, j in pairs:
            w["W_enc"][:, i] = (w["W_enc"][:, i] + w["W_enc"][:, j]) / 2
            w["b_enc"][i] = (w["b_enc"][i] + w["b_enc"][j]) / 2
            row = w["W_dec"][i] + w["W_dec"][j]
            w["W_dec"][i] = row / np.linalg.norm(row)
        return pairs

    def restart(self, free: list[int], x: np.ndarray, squares: np.ndarray, i: int) -> None:
        if not free:
            return
        others = [j for j in range(24) if j not in free]
        size = 0.2 * np.linalg.norm(self.w["W_enc"][:, others], axis=0).mean()
        draw = torch.Generator().manual_seed(i)
        chosen = torch.multinomial(torch.tensor(squares**2), len(free), generator=draw).tolist()
        assert len(set(chosen)) == len(chosen)
        for j, example in zip(free, chosen, strict=True):
            direction = x[example] / np.linalg.norm(x[example])
            self.w["W_dec"][j] = direction
            self.w["W_enc"][:, j] = size * direction
            self.w["b_enc"][j] = 0
            for name, at in (("W_dec", j), ("b_enc", j), ("W_enc", (slice(None), j))):
                for moment in self.moments[name]:
                    moment[at] = 0
            self.seen[j] = 0


def brute_force_pairs(rows: np.ndarray, above: float) -> list[tuple[int, int]]:
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -1)
    pairs = []
    while cosines.max() > above:
        i, j = sorted(int(k) for k in np.unravel_index(cosines.argmax(), cosines.shape))
        pairs.append((i, j))
        for k in (i, j):
            cosines[k] = cosines[:, k] = -1
    return pairs


def test_forward_agrees_with_the_formula() -> None:
    sae, x = make(), batch()
    sample = batch(99).numpy()
    w = as_numpy(sae)
    acts, error = forward(w, standardize(x))
    out = sae(x)
    np.testing.assert_allclose(out.acts.dense().detach().numpy(), acts, rtol=1e-9, atol=1e-12)
    wanted = (standardize(x) - error) * sample.std(0, ddof=1) + sample.mean(0)
    np.testing.assert_allclose(out.sae_out.detach().numpy(), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"schedule": False},
        {"adaptive": False},
        {"target_loss": 1e-3},
        {"target_loss": 1e3, "lambda_0": 0.7},
        {"target_loss": 7.0, "lambda_0": 0.7},
    ],
)
def test_loss_and_gradients_agree_with_the_paper(settings: dict[str, Any]) -> None:
    sae, x = make(**settings), batch()
    wanted = Oracle(sae).loss_and_gradients(standardize(x), 7, 40)
    losses = sae.losses(x, TrainStep(7, 40))
    losses["loss"].backward()
    for name, value in losses.items():
        assert value.item() == pytest.approx(wanted[name], rel=1e-9), name
    for name, parameter in sae.named_parameters():
        expected = wanted["gradients"][name]
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        STILL,
        {"track": False, "merge": False},
        {"merge": False},
        {"merge_cosine": 0.7},
        {"merge_cosine": 0.7, "resample": False, "track": False},
    ],
    ids=["schedule", "resample", "track", "all", "only merge"],
)
def test_a_run_agrees_with_the_paper(settings: dict[str, Any]) -> None:
    sae = make(**{"min_rate": 0.31, "lambda_0": 1.0, "target_loss": 5.0, **settings})
    oracle = Oracle(sae)
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR)
    for i in range(20):
        step(sae, optimizer, i)
        oracle.step(i)
        for name, value in as_numpy(sae).items():
            wanted = oracle.w[name]
            np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-9, err_msg=f"{name} {i}")
    for name, parameter in sae.named_parameters():
        for key, wanted in zip(("exp_avg", "exp_avg_sq"), oracle.moments[name], strict=True):
            found = optimizer.state[parameter][key].numpy()
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-12, err_msg=name)
    times = [i for i, latents in enumerate(oracle.resampled) if latents]
    assert bool(times) == sae.config.resample
    if sae.config.resample and not sae.config.track:
        assert all((i + 1) % 4 == 0 for i in times)
    if sae.config.track:
        assert times[0] == 3 and any((i + 1) % 4 != 0 for i in times)
    merges = [i for i, pairs in enumerate(oracle.merged) if pairs]
    assert bool(merges) == sae.config.merge and all((i + 1) % 5 == 0 for i in merges)


def test_what_training_counts_is_no_part_of_the_artifact() -> None:
    sae = make()
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR)
    for i in range(3):
        step(sae, optimizer, i)
    assert sae.fired.any() and sae.batches_seen.any()
    assert not {"fired", "batches_seen"} & set(sae.weights())
    sae.reset_counters()
    assert not sae.fired.any() and not sae.batches_seen.any()


def test_examples_are_drawn_in_proportion_to_their_squared_loss() -> None:
    """A dead latent is pointed at each of three orthogonal examples with losses 1, 4 and 9 (with squares 1, 16, 81)."""
    counts = np.zeros(3)
    for i in range(400):
        sae = build({**CONFIG, **STILL, "resample": True, "window": 1, "normalize": "none"})
        assert isinstance(sae, DynamicSAE)
        x = torch.eye(10)[:3] * torch.tensor([[1.0], [2.0], [3.0]])
        with torch.no_grad():
            sae.W_enc.zero_()
            sae.b_enc.fill_(-1)
            sae.b_enc[1:] = 1  # all but the first latent fire
            sae.W_dec.zero_()
        now, optimizer = TrainStep(i, 400), torch.optim.SGD(sae.parameters(), lr=0.0)
        sae.losses(x, now)
        sae.after_update(now, optimizer)
        counts[int(sae.W_dec[0].argmax())] += 1
        assert sae.W_dec[0].norm() == 1 and sae.b_enc[0] == 0 and not sae.W_dec[1:].any()
    np.testing.assert_allclose(counts / 400, np.array([1, 16, 81]) / 98, atol=0.06)


def test_no_more_latents_start_anew_than_there_are_examples() -> None:
    sae = make(window=1, merge=False, min_rate=1.0)
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR)
    now, x = TrainStep(0, 10), batch()[:7]
    sae.losses(x, now)["loss"].backward()
    with torch.no_grad():
        sae.b_enc.fill_(-100)
    sae.losses(x, now)
    sae.after_update(now, optimizer)
    assert (sae.b_enc[:7] == 0).all() and (sae.b_enc[7:] < -90).all()
    assert sae.batches_seen.tolist() == [0] * 7 + [1] * 17


def test_without_losses_before_it_nothing_starts_anew() -> None:
    sae = make()
    before = as_numpy(sae)
    sae.after_update(TrainStep(4, 10), torch.optim.SGD(sae.parameters(), lr=0.0))
    for name, value in as_numpy(sae).items():
        np.testing.assert_allclose(value, before[name], rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_the_greedy_ones(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hsae_hub.ops.similar._CHUNK", 16)
    rows = np.random.default_rng(seed).normal(size=(70, 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    first, second = similar_pairs(torch.tensor(rows), 0.9)
    found = list(zip(first.tolist(), second.tolist(), strict=True))
    assert found == brute_force_pairs(rows, 0.9) and len(found) > 20


def test_rows_that_differ_give_no_pairs() -> None:
    first, second = similar_pairs(torch.eye(5), 0.9)
    assert len(first) == len(second) == 0


def test_a_window_without_resampling_is_refused() -> None:
    with pytest.raises(UsageError, match="track needs resample"):
        parse_config({**CONFIG, "resample": False})
