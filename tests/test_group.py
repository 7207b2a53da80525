"""`group` against NumPy, in float64 (the Hierarchical Feature Groups paper)."""

import numpy as np
import pytest
import torch

from hsae_hub.architectures import TrainStep, build, parse_config
from hsae_hub.architectures.group import GroupSAE
from hsae_hub.errors import UsageError

CONFIG = {"architecture": "group", "d_in": 10, "d_sae": 23, "n_groups": 5, "gamma": 1.7}
SIZES = [5, 5, 5, 4, 4]
NOW = TrainStep(3, 10)


def make(**settings: object) -> GroupSAE:
    sae = build({**CONFIG, **settings}, seed=1).double()
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
        sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
    assert isinstance(sae, GroupSAE)
    return sae


def batch() -> torch.Tensor:
    return 5 * torch.randn(30, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def as_numpy(sae: GroupSAE) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in sae.named_parameters()}


def layer_norm(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = x.mean(1, keepdims=True)
    std = np.sqrt(((x - mean) ** 2).mean(1, keepdims=True) + 1e-5)
    return (x - mean) / std, mean, std


def gradients_of(
    w: dict[str, np.ndarray], normal: np.ndarray, prices: np.ndarray
) -> tuple[float, float, dict[str, np.ndarray]]:
    """Reconstruction, penalty and gradients, for a price of each latent's act."""
    pre = normal @ w["W_enc"] + w["b_enc"]
    acts = np.maximum(pre, 0)
    error = normal - acts @ w["W_dec"] - w["b_dec"]
    to_acts = (-2 * error @ w["W_dec"].T + prices) * (pre > 0) / len(normal)
    gradients = {
        "W_enc": normal.T @ to_acts,
        "b_enc": to_acts.sum(0),
        "W_dec": -2 * acts.T @ error / len(normal),
        "b_dec": -2 * error.mean(0),
    }
    return (error**2).sum(1).mean(), (acts * prices).sum(1).mean(), gradients


def test_forward_agrees_with_the_formula() -> None:
    sae, x = make(), batch()
    w = as_numpy(sae)
    normal, mean, std = layer_norm(x.numpy())
    acts = np.maximum(normal @ w["W_enc"] + w["b_enc"], 0)
    out = sae(x)
    np.testing.assert_allclose(out.acts.dense().detach().numpy(), acts * std, rtol=1e-9)
    wanted = (acts @ w["W_dec"] + w["b_dec"]) * std + mean
    np.testing.assert_allclose(out.sae_out.detach().numpy(), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("clip", [None, 5.0, 1.0])
def test_loss_and_one_optimiser_step_agree_with_the_paper(clip: float | None) -> None:
    sae, x = make(lambda_l1=0.3, weight_decay=0.5, group_clip_norm=clip), batch()
    w = as_numpy(sae)
    normal, _, _ = layer_norm(x.numpy())
    prices = np.repeat(0.3 * 1.7 ** np.arange(5), SIZES)
    reconstruction, penalty, gradients = gradients_of(w, normal, prices)

    optimizer = torch.optim.Adam(sae.parameters(), lr=0.01)
    losses = sae.losses(x, NOW)
    losses["loss"].backward()
    assert losses["reconstruction"].item() == pytest.approx(reconstruction, rel=1e-9)
    assert losses["l1"].item() * 0.3 == pytest.approx(penalty, rel=1e-9)
    assert losses["loss"].item() == pytest.approx(reconstruction + penalty, rel=1e-9)
    for name, parameter in sae.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), gradients[name], rtol=1e-6, atol=1e-12)

    D, G = w["W_dec"], gradients["W_dec"]
    G -= (G * D).sum(1, keepdims=True) * D
    ends = np.cumsum(SIZES)
    clipped = 0
    for start, end in zip(ends - SIZES, ends, strict=True):
        columns, rows = gradients["W_enc"][:, start:end], G[start:end]
        norm = np.sqrt((columns**2).sum() + (rows**2).sum())
        if clip is not None and norm > clip:
            clipped += 1
            columns *= clip / norm
            rows *= clip / norm
    assert clipped == {None: 0, 5.0: 3, 1.0: 5}[clip]
    sae.before_update()
    for name, parameter in sae.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), gradients[name], rtol=1e-6, atol=1e-12)

    optimizer.step()
    sae.after_update(NOW, optimizer)
    for name, value in as_numpy(sae).items():  # the first step of Adam
        wanted = w[name] - 0.01 * gradients[name] / (np.abs(gradients[name]) + 1e-8)
        if name in ("W_enc", "b_enc"):
            wanted *= 1 - 0.01 * 0.5
        if name == "W_dec":
            wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-9, err_msg=name)


def test_the_paper_s_groups_and_the_flat_baseline() -> None:
    sizes = [len(part) for part in torch.zeros(2304).tensor_split(5)]
    assert sizes == [461, 461, 461, 461, 460]
    flat, x = make(gamma=1.0), batch()
    normal, _, _ = layer_norm(x.numpy())
    w = as_numpy(flat)
    acts = np.maximum(normal @ w["W_enc"] + w["b_enc"], 0)
    assert flat.losses(x, NOW)["l1"].item() == pytest.approx(acts.sum(1).mean(), rel=1e-9)


def test_the_report_counts_every_group() -> None:
    sae, x = make(), batch()
    with torch.no_grad():
        sae.b_enc[:5] = -100.0  # the first group never fires
    w = as_numpy(sae)
    normal, _, std = layer_norm(x.numpy())
    acts = np.maximum(normal @ w["W_enc"] + w["b_enc"], 0) * std
    found = sae.report(x)
    ends = np.cumsum(SIZES)
    for number, (start, end) in enumerate(zip(ends - SIZES, ends, strict=True), start=1):
        own = acts[:, start:end]
        fired = own[own > 0]
        assert found.pop(f"group_{number}_rate") == pytest.approx(len(fired) / own.size)
        intensity = fired.mean() if len(fired) else 0.0
        assert found.pop(f"group_{number}_intensity") == pytest.approx(intensity)
        assert found.pop(f"group_{number}_active") == (own.mean(0) > 1e-4).sum()
    assert not found


def test_more_groups_than_latents_are_refused() -> None:
    with pytest.raises(UsageError, match=r"n_groups \(=24\) must be at most d_sae \(=23\)"):
        parse_config({**CONFIG, "n_groups": 24})
