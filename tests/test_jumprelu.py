"""`jumprelu` against NumPy with thresholds kept as logarithms, in float64 (Rajamanoharan et al. 2024, 2407.14435)."""

import numpy as np
import pytest
import torch

from hsae_hub.architectures import TrainStep, build
from hsae_hub.architectures.jumprelu import JumpReLUSAE

CONFIG = {
    "architecture": "jumprelu",
    "d_in": 10,
    "d_sae": 24,
    "lambda_l0": 0.02,
    "penalty_warmup_steps": 4,
    "bandwidth": 0.2,
    "init_threshold": 0.25,
    "normalize": "unit_norm",
}
Weights = dict[str, np.ndarray]


def make(**settings: object) -> JumpReLUSAE:
    sae = build({**CONFIG, **settings}, seed=1).double()
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            drawn = torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
            if name == "threshold":
                parameter.mul_(torch.exp(0.5 * drawn))
            else:
                parameter.add_(0.2 * drawn)
    sae.after_update(TrainStep(0, 9), torch.optim.SGD(sae.parameters()))
    assert isinstance(sae, JumpReLUSAE)
    return sae


def batch(seed: int = 3) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return 5 * torch.randn(30, 10, generator=noise, dtype=torch.float64)


def as_numpy(sae: JumpReLUSAE) -> Weights:
    return {name: p.detach().numpy().copy() for name, p in sae.named_parameters()}


def unit_norm(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    norms = np.linalg.norm(x.numpy(), axis=1, keepdims=True) + 1e-6
    return x.numpy() / norms, norms


def oracle(w: Weights, unit: np.ndarray, weight: float) -> tuple[dict[str, float], Weights]:
    """Loss and its parts, and the paper's gradients, that of the threshold for the threshold itself."""
    eps, batch, theta = 0.2, len(unit), w["threshold"]
    centred = unit - w["b_dec"]
    pre = centred @ w["W_enc"] + w["b_enc"]
    gate = (pre > theta).astype(float)
    acts = pre * gate
    error = unit - acts @ w["W_dec"] - w["b_dec"]
    d_out = -2 * error / batch
    d_acts = d_out @ w["W_dec"].T
    u = (pre - theta) / eps
    kernel = ((u > -0.5) & (u < 0.5)).astype(float)
    d_pre = d_acts * gate
    d_theta = -(theta / eps) * kernel * d_acts - kernel / eps * weight / batch
    parts = {"reconstruction": (error**2).sum(1).mean(), "l0": gate.sum(1).mean()}
    gradients = {
        "W_enc": centred.T @ d_pre,
        "b_enc": d_pre.sum(0),
        "threshold": d_theta.sum(0),
        "W_dec": acts.T @ d_out,
        "b_dec": d_out.sum(0) - (d_pre @ w["W_enc"].T).sum(0),
    }
    return {"loss": parts["reconstruction"] + weight * parts["l0"], **parts}, gradients


def test_forward_agrees_with_the_formula() -> None:
    sae, x = make(), batch()
    w, (unit, norms) = as_numpy(sae), unit_norm(x)
    pre = (unit - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    acts = pre * (pre > w["threshold"])
    assert ((pre > 0) & (acts == 0)).any()
    out = sae(x)
    np.testing.assert_allclose(out.acts.dense().detach().numpy(), acts * norms, rtol=1e-9)
    wanted = (acts @ w["W_dec"] + w["b_dec"]) * norms
    np.testing.assert_allclose(out.sae_out.detach().numpy(), wanted, rtol=1e-6, atol=1e-9)
    assert set(sae.weights()) == {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}


@pytest.mark.parametrize(("step", "ramp"), [(0, 0.0), (1, 0.25), (4, 1.0), (9, 1.0)])
def test_loss_and_gradients_agree_with_the_paper(step: int, ramp: float) -> None:
    sae, x = make(), batch()
    wanted, gradients = oracle(as_numpy(sae), unit_norm(x)[0], 0.02 * ramp)
    losses = sae.losses(x, TrainStep(step, 20))
    assert set(losses) == set(wanted)
    for name, value in wanted.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-9), name
    losses["loss"].backward()
    for name, parameter in sae.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), gradients[name], rtol=1e-6, atol=1e-12)
    assert gradients["threshold"].any()


def test_training_is_that_of_the_logarithms_of_the_thresholds() -> None:
    sae = make(penalty_warmup_steps=0)
    w, lr = as_numpy(sae), 0.05
    log_theta = np.log(w.pop("threshold"))
    state = {**w, "log": log_theta}
    m = {name: np.zeros_like(value) for name, value in state.items()}
    v = {name: np.zeros_like(value) for name, value in state.items()}
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr, betas=(0.0, 0.999))
    for i in range(4):
        x, now = batch(i), TrainStep(i, 4)
        theta = np.exp(state["log"])
        weights = {name: value for name, value in state.items() if name != "log"}
        _, g = oracle({**weights, "threshold": theta}, unit_norm(x)[0], 0.02)
        g["log"] = g.pop("threshold") * theta
        g["W_dec"] -= (g["W_dec"] * state["W_dec"]).sum(1, keepdims=True) * state["W_dec"]
        for name in state:
            m[name] = g[name]
            v[name] = 0.999 * v[name] + 0.001 * g[name] ** 2
            scale = np.sqrt(v[name] / (1 - 0.999 ** (i + 1))) + 1e-8
            state[name] = state[name] - lr * m[name] / scale
        state["W_dec"] /= np.linalg.norm(state["W_dec"], axis=1, keepdims=True)

        optimizer.zero_grad()
        sae.losses(x, now)["loss"].backward()
        sae.before_update()
        optimizer.step()
        sae.after_update(now, optimizer)
    found = as_numpy(sae)
    assert np.abs(np.log(found["threshold"]) - log_theta).max() > 0.1
    np.testing.assert_allclose(found.pop("threshold"), np.exp(state.pop("log")), rtol=1e-6)
    for name, value in found.items():
        np.testing.assert_allclose(value, state[name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_a_threshold_stays_positive_whatever_the_step() -> None:
    sae, now = make(), TrainStep(1, 2)
    optimizer = torch.optim.SGD(sae.parameters(), lr=1.0)
    sae.losses(batch(), now)["loss"].backward()
    sae.before_update()
    sae.threshold.grad.fill_(10.0)
    before = sae.threshold.detach().clone()
    optimizer.step()
    assert (sae.threshold < 0).all()
    sae.after_update(now, optimizer)
    torch.testing.assert_close(sae.threshold.detach(), before * torch.exp(torch.tensor(-10.0)))


def test_without_the_pre_encoder_bias_it_is_the_same_sae_with_that_folded_in() -> None:
    sae, x = make(), batch()
    folded = make(pre_encoder_bias=False)
    folded.load_state_dict(sae.state_dict())
    with torch.no_grad():
        folded.b_enc -= sae.b_dec @ sae.W_enc
    torch.testing.assert_close(folded(x).sae_out, sae(x).sae_out)
