"""`gated` against NumPy, in float64 (Rajamanoharan et al. 2024, arXiv 2404.16014)."""

import numpy as np
import pytest
import torch

from hsae_hub.architectures import TrainStep, build
from hsae_hub.architectures.gated import GatedSAE

CONFIG = {
    "architecture": "gated",
    "d_in": 10,
    "d_sae": 24,
    "lambda_l1": 0.3,
    "normalize": "unit_norm",
}
NOW = TrainStep(3, 10)


def make(**settings: object) -> GatedSAE:
    sae = build({**CONFIG, **settings}, seed=1).double()
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    sae.after_update(NOW, torch.optim.SGD(sae.parameters()))
    assert isinstance(sae, GatedSAE)
    return sae


def batch() -> torch.Tensor:
    return 5 * torch.randn(30, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def as_numpy(sae: GatedSAE) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in sae.named_parameters()}


def paths(
    w: dict[str, np.ndarray], unit: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gate's and magnitude's pre-activations, each from its own encoder, the acts, and the centred tokens."""
    centred = unit - w["b_dec"]
    W_mag = w["W_enc"] * np.exp(w["r_mag"])
    gate = centred @ w["W_enc"] + w["b_gate"]
    magnitude = centred @ W_mag + w["b_mag"]
    return gate, magnitude, np.heaviside(gate, 0) * np.maximum(magnitude, 0), centred


def unit_norm(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    norms = np.linalg.norm(x.numpy(), axis=1, keepdims=True) + 1e-6
    return x.numpy() / norms, norms


def test_forward_agrees_with_the_formula() -> None:
    sae, x = make(), batch()
    w, (unit, norms) = as_numpy(sae), unit_norm(x)
    gate, magnitude, acts, _ = paths(w, unit)
    assert ((gate > 0) & (magnitude < 0)).any() and ((gate < 0) & (magnitude > 0)).any()
    out = sae(x)
    np.testing.assert_allclose(out.acts.dense().detach().numpy(), acts * norms, rtol=1e-9)
    wanted = (acts @ w["W_dec"] + w["b_dec"]) * norms
    np.testing.assert_allclose(out.sae_out.detach().numpy(), wanted, rtol=1e-6, atol=1e-9)


def test_loss_gradients_and_one_step_agree_with_the_formula() -> None:
    sae, x = make(), batch()
    w, (unit, _) = as_numpy(sae), unit_norm(x)
    gate, magnitude, acts, centred = paths(w, unit)
    open_gate = np.maximum(gate, 0)
    error = unit - acts @ w["W_dec"] - w["b_dec"]
    gate_error = unit - open_gate @ w["W_dec"] - w["b_dec"]
    reconstruction, l1 = (error**2).sum(1).mean(), open_gate.sum(1).mean()
    aux = (gate_error**2).sum(1).mean()
    d_out, d_aux = -2 * error / len(x), -2 * gate_error / len(x)
    d_magnitude = (d_out @ w["W_dec"].T) * (acts > 0)
    d_gate = (d_aux @ w["W_dec"].T + 0.3 / len(x)) * (gate > 0)
    d_shared = d_gate + d_magnitude * np.exp(w["r_mag"])
    gradients = {
        "W_enc": centred.T @ d_shared,
        "b_gate": d_gate.sum(0),
        "b_mag": d_magnitude.sum(0),
        "r_mag": (d_magnitude * (magnitude - w["b_mag"])).sum(0),
        "W_dec": acts.T @ d_out,  # nothing from aux: its decoder is frozen, and so is its bias
        "b_dec": d_out.sum(0) - (d_shared @ w["W_enc"].T).sum(0),
    }

    optimizer = torch.optim.SGD(sae.parameters(), lr=0.1)
    losses = sae.losses(x, NOW)
    losses["loss"].backward()
    wanted_parts = {"reconstruction": reconstruction, "l1": l1, "aux": aux}
    for name, value in {"loss": reconstruction + 0.3 * l1 + aux, **wanted_parts}.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-9), name
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


def test_the_penalty_grows_with_its_warm_up_and_aux_does_not() -> None:
    sae, x = make(penalty_warmup_steps=10), batch()
    for step, ramp in ((0, 0.0), (4, 0.4), (10, 1.0), (30, 1.0)):
        losses = sae.losses(x, TrainStep(step, 40))
        penalty = losses["loss"] - losses["reconstruction"] - losses["aux"]
        torch.testing.assert_close(penalty, 0.3 * ramp * losses["l1"])


def test_it_starts_as_a_relu_sae_with_the_published_tensors() -> None:
    sae, x = build(CONFIG, seed=1), batch().float()
    acts = (x @ sae.W_enc).relu()
    torch.testing.assert_close(sae.encode(x).dense(), acts, rtol=1e-4, atol=1e-4)
    assert set(sae.weights()) == {"W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"}
