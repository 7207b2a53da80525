"""`topk` against NumPy, in float64 (Gao et al. 2024, arXiv 2406.04093)."""

import numpy as np
import pytest
import torch

from hsae_hub.architectures import TrainStep, build

CONFIG = {"architecture": "topk", "d_in": 10, "d_sae": 24, "k": 3, "normalize": "unit_norm"}


def make(**settings: object) -> torch.nn.Module:
    sae = build({**CONFIG, **settings}, seed=1).double()
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    return sae


def batch() -> torch.Tensor:
    return 5 * torch.randn(30, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def acts_of(w: dict[str, np.ndarray], unit: np.ndarray, k: int) -> np.ndarray:
    pre = (unit - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    acts = np.zeros_like(pre)
    for t, row in enumerate(pre):
        for j in np.argsort(-row)[:k]:
            acts[t, j] = max(row[j], 0.0)
    return acts


def test_forward_agrees_with_the_formula() -> None:
    sae, x = make(), batch()
    w = {name: p.detach().numpy() for name, p in sae.named_parameters()}
    norms = np.linalg.norm(x.numpy(), axis=1, keepdims=True) + 1e-6
    acts = acts_of(w, x.numpy() / norms, 3)
    out = sae(x)
    np.testing.assert_allclose(out.acts.dense().detach().numpy(), acts * norms, rtol=1e-6)
    wanted = (acts @ w["W_dec"] + w["b_dec"]) * norms
    np.testing.assert_allclose(out.sae_out.detach().numpy(), wanted, rtol=1e-6, atol=1e-9)


def test_dead_latents_reconstruct_the_error() -> None:
    sae, x = make(dead_after_tokens=60), batch()
    w = {name: p.detach().numpy().copy() for name, p in sae.named_parameters()}
    unit = x.numpy() / (np.linalg.norm(x.numpy(), axis=1, keepdims=True) + 1e-6)
    acts = acts_of(w, unit, 3)
    error = unit - acts @ w["W_dec"] - w["b_dec"]
    main = (error**2).sum(1).mean()
    first = sae.losses(x, TrainStep(0, 1000))
    assert first["loss"].item() == pytest.approx(main) and first["aux"] == 0
    sae.tokens_since_fired[:] = 100
    losses = sae.losses(x, TrainStep(1, 1000))
    pre = (unit - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    pre[:, (acts > 0).any(0)] = -np.inf
    dead = int(np.isfinite(pre[0]).sum())
    revived = np.zeros_like(unit)
    for t, row in enumerate(pre):
        for j in np.argsort(-row)[: min(5, dead)]:
            revived[t] += max(row[j], 0.0) * w["W_dec"][j]
    aux = ((error - revived) ** 2).sum(1).mean()
    assert dead > 0 and losses["aux"].item() == pytest.approx(aux, rel=1e-9)
    assert losses["loss"].item() == pytest.approx(main + aux / 32, rel=1e-9)


def test_counting_of_dead_latents_is_scaled_to_short_runs() -> None:
    sae, x = make(), batch()
    for i in range(4):
        losses = sae.losses(x, TrainStep(i, 20))
    fired = torch.zeros(24, dtype=torch.bool)
    fired[sae.encode(x).indices[sae.encode(x).values > 0]] = True
    assert torch.equal(sae.tokens_since_fired == 120, ~fired)
    assert losses["aux"] > 0, "a tenth of 20 steps have gone by without an act"


def test_without_bias_it_is_the_papers_baseline() -> None:
    sae, x = make(bias=False), batch()
    assert set(sae.weights()) == {"W_enc", "W_dec"}
    unit = x / (x.norm(dim=1, keepdim=True) + 1e-6)
    top = (unit @ sae.W_enc).topk(3).values.relu().sort().values
    torch.testing.assert_close(
        sae.encode(x).values.sort().values, top * (x.norm(dim=1, keepdim=True) + 1e-6)
    )
