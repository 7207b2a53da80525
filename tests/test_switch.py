"""`switch` against NumPy, in float64 (Mudide et al. 2024, arXiv 2410.08201)."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hsae_hub.architectures import SAE, TrainStep, build
from hsae_hub.errors import UsageError

D, N, E, K = 10, 24, 4, 2
CONFIG = {"architecture": "switch", "d_in": D, "d_sae": N, "n_experts": E, "k": K}


def make(**settings: object) -> SAE[Any]:
    sae = build({**CONFIG, **settings}, seed=1).double()
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    return sae


def batch(rows: int = 60) -> torch.Tensor:
    noise = torch.Generator().manual_seed(3)
    return 2 * torch.randn(rows, D, generator=noise, dtype=torch.float64)


def arrays(sae: SAE[Any]) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in sae.named_parameters()}


def route(w: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits = (x - w["b_router"]) @ w["W_router"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return p, p.argmax(1)


def expert_acts(w: dict[str, np.ndarray], x: np.ndarray, expert: np.ndarray) -> np.ndarray:
    """Acts before the router's probability."""
    pre = (x - w["b_dec"]) @ w["W_enc"]
    acts = np.zeros_like(pre)
    for t, e in enumerate(expert):
        own = np.arange(e * N // E, (e + 1) * N // E)
        for j in own[np.argsort(-pre[t, own])[:K]]:
            acts[t, j] = max(pre[t, j], 0)
    return acts


def test_forward_agrees_with_the_formula() -> None:
    sae, x = make(), batch()
    w = arrays(sae)
    p, expert = route(w, x.numpy())
    assert len(set(expert)) == E
    acts = p.max(1, keepdims=True) * expert_acts(w, x.numpy(), expert)
    out = sae(x)
    np.testing.assert_allclose(out.acts.dense().detach().numpy(), acts, rtol=1e-6)
    wanted = acts @ w["W_dec"] + w["b_dec"]
    np.testing.assert_allclose(out.sae_out.detach().numpy(), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("variant", "times"), [("paper", 1), ("released", D)])
def test_losses_and_gradients_agree_with_the_formula(variant: str, times: int) -> None:
    sae, x = make(variant=variant), batch()
    w, raw = arrays(sae), x.numpy()
    p, expert = route(w, raw)
    chosen = np.eye(E)[expert]
    plain = expert_acts(w, raw, expert)
    top = p.max(1, keepdims=True)
    error = raw - (top * plain) @ w["W_dec"] - w["b_dec"]
    reconstruction = (error**2).sum(1).mean()
    shares = chosen.mean(0)
    balance = E * (shares * p.mean(0)).sum()

    losses = sae.losses(x, TrainStep(0, 10))
    losses["loss"].backward()
    assert losses["reconstruction"].item() == pytest.approx(reconstruction, rel=1e-9)
    assert losses["balance"].item() == pytest.approx(balance, rel=1e-9)
    assert losses["loss"].item() == pytest.approx(reconstruction + 3 * times * balance, rel=1e-9)

    d_out = -2 * error / len(raw)
    d_pre = (d_out @ w["W_dec"].T) * top * (plain > 0)
    d_p = chosen * (d_out * (plain @ w["W_dec"])).sum(1, keepdims=True)
    d_p += 3 * times * E * shares / len(raw)
    d_logits = p * (d_p - (d_p * p).sum(1, keepdims=True))
    wanted = {
        "W_dec": (top * plain).T @ d_out,
        "W_enc": (raw - w["b_dec"]).T @ d_pre,
        "b_dec": d_out.sum(0) - (d_pre @ w["W_enc"].T).sum(0),
        "W_router": (raw - w["b_router"]).T @ d_logits,
        "b_router": -(d_logits @ w["W_router"].T).sum(0),
    }
    for name, parameter in sae.named_parameters():
        got = parameter.grad.numpy()
        np.testing.assert_allclose(got, wanted[name], rtol=1e-6, atol=1e-12, err_msg=name)


def test_decoder_rows_stay_unit() -> None:
    sae = make()
    sae.losses(batch(), TrainStep(0, 10))["loss"].backward()
    grad, rows = sae.W_dec.grad.numpy().copy(), arrays(sae)["W_dec"]
    sae.before_update()
    wanted = grad - (grad * rows).sum(1, keepdims=True) * rows
    np.testing.assert_allclose(sae.W_dec.grad.numpy(), wanted, rtol=1e-6, atol=1e-12)
    sae.after_update(TrainStep(0, 10), torch.optim.SGD(sae.parameters()))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(arrays(sae)["W_dec"], rows, rtol=1e-6)


def test_an_expert_costs_what_it_is_wide_not_what_all_are() -> None:
    sae, x = make(), batch(64)
    with FlopCounterMode(display=False) as counter:
        sae.encode(x)
    assert counter.get_total_flops() == 2 * 64 * D * (N // E + E)


def test_balance_is_one_when_even_and_n_experts_when_all_go_to_one() -> None:
    sae, x = make(), batch()
    sae.W_router.data.zero_()
    assert sae.losses(x, TrainStep(0, 10))["balance"].item() == pytest.approx(1)
    sae.W_router.data[0, 2] = 1.0
    sae.b_router.data[:] = 0
    sae.b_router.data[0] = -100.0
    losses = sae.losses(x, TrainStep(0, 10))
    assert losses["balance"].item() == pytest.approx(E)
    indices = sae.encode(x).indices
    assert indices.min() >= 2 * N // E and indices.max() < 3 * N // E


def test_experts_without_tokens_get_no_gradient() -> None:
    sae, x = make(), batch(1)
    expert = sae.encode(x).indices[0, 0].item() // (N // E)
    sae.losses(x, TrainStep(0, 10))["loss"].backward()
    touched = sae.W_enc.grad.view(D, E, -1).abs().sum((0, 2)).nonzero()[:, 0]
    assert touched.tolist() == [expert]
    assert set(sae.weights()) == {"W_enc", "W_dec", "b_dec", "W_router", "b_router"}


def test_sizes_have_to_fit() -> None:
    with pytest.raises(UsageError, match=r"d_sae \(=24\) must be a multiple of n_experts \(=5\)"):
        make(n_experts=5)
    with pytest.raises(UsageError, match=r"k \(=7\) must be at most d_sae / n_experts \(=6\)"):
        make(k=7)
