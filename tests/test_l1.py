"""`l1` against NumPy, in float64 (the flat baseline of the group, nested and dynamic papers)."""

import numpy as np
import pytest
import torch

from hsae_hub.architectures import TrainStep, build
from hsae_hub.architectures.l1 import L1SAE

CONFIG = {"architecture": "l1", "d_in": 10, "d_sae": 24, "normalize": "layer_norm"}
NOW = TrainStep(3, 10)


def make(**settings: object) -> L1SAE:
    sae = build({**CONFIG, **settings}, seed=1).double()
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    sae.after_update(NOW, torch.optim.SGD(sae.parameters()))
    assert isinstance(sae, L1SAE)
    return sae


def batch() -> torch.Tensor:
    return 5 * torch.randn(30, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def as_numpy(sae: L1SAE) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in sae.named_parameters()}


def layer_norm(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = x.mean(1, keepdims=True)
    std = np.sqrt(x.var(1, keepdims=True) + 1e-5)
    return (x - mean) / std, mean, std


def test_forward_agrees_with_the_formula() -> None:
    sae, x = make(), batch()
    w = as_numpy(sae)
    normal, mean, std = layer_norm(x.numpy())
    acts = np.maximum((normal - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)
    out = sae(x)
    np.testing.assert_allclose(out.acts.dense().detach().numpy(), acts * std, rtol=1e-9)
    wanted = (acts @ w["W_dec"] + w["b_dec"]) * std + mean
    np.testing.assert_allclose(out.sae_out.detach().numpy(), wanted, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(out.acts.l0().detach().numpy(), (acts > 0).sum(1))


@pytest.mark.parametrize("lambda_l1", [0.04, 1.5])
def test_loss_gradients_and_one_step_agree_with_the_formula(lambda_l1: float) -> None:
    sae, x = make(lambda_l1=lambda_l1), batch()
    w = as_numpy(sae)
    normal, _, _ = layer_norm(x.numpy())
    centred = normal - w["b_dec"]
    pre = centred @ w["W_enc"] + w["b_enc"]
    acts = np.maximum(pre, 0)
    error = normal - acts @ w["W_dec"] - w["b_dec"]
    reconstruction, l1 = (error**2).sum(1).mean(), acts.sum(1).mean()
    d_out = -2 * error / len(x)
    d_pre = (d_out @ w["W_dec"].T + lambda_l1 / len(x)) * (pre > 0)
    gradients = {
        "W_enc": centred.T @ d_pre,
        "b_enc": d_pre.sum(0),
        "W_dec": acts.T @ d_out,
        "b_dec": d_out.sum(0) - (d_pre @ w["W_enc"].T).sum(0),
    }

    optimizer = torch.optim.SGD(sae.parameters(), lr=0.1)
    losses = sae.losses(x, NOW)
    losses["loss"].backward()
    assert losses["reconstruction"].item() == pytest.approx(reconstruction, rel=1e-9)
    assert losses["l1"].item() == pytest.approx(l1, rel=1e-9)
    assert losses["loss"].item() == pytest.approx(reconstruction + lambda_l1 * l1, rel=1e-9)
    for name, parameter in sae.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), gradients[name], rtol=1e-6, atol=1e-12)

    along = (gradients["W_dec"] * w["W_dec"]).sum(1, keepdims=True)
    gradients["W_dec"] = gradients["W_dec"] - along * w["W_dec"]
    wanted = {name: w[name] - 0.1 * gradients[name] for name in w}
    wanted["W_dec"] /= np.linalg.norm(wanted["W_dec"], axis=1, keepdims=True)
    sae.before_update()
    optimizer.step()
    sae.after_update(NOW, optimizer)
    for name, value in as_numpy(sae).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_the_penalty_grows_with_its_warm_up() -> None:
    sae, x = make(lambda_l1=2.0, penalty_warmup_steps=10), batch()
    for step, ramp in ((0, 0.0), (4, 0.4), (10, 1.0), (30, 1.0)):
        losses = sae.losses(x, TrainStep(step, 40))
        penalty = losses["loss"] - losses["reconstruction"]
        torch.testing.assert_close(penalty, 2.0 * ramp * losses["l1"])


def test_the_default_penalty_is_the_seeds() -> None:
    assert make().config.lambda_l1 == 0.04
    assert list(make().weights()) == ["b_dec", "W_enc", "b_enc", "W_dec"]
