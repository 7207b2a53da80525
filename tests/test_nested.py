"""`nested` against NumPy, in float64 (the Nested Dictionary Learning paper)."""

from itertools import permutations

import numpy as np
import pytest
import torch

from hsae_hub.architectures import TrainStep, build, parse_config
from hsae_hub.architectures.nested import NestedSAE
from hsae_hub.errors import UsageError

CONFIG = {"architecture": "nested", "d_in": 10, "d_sae": 24, "normalize": "layer_norm"}
NOW = TrainStep(3, 10)
Weights = dict[str, np.ndarray]


def make(**settings: object) -> NestedSAE:
    sae = build({**CONFIG, **settings}, seed=1).double()
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
        sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
    assert isinstance(sae, NestedSAE)
    return sae


def batch() -> torch.Tensor:
    return 5 * torch.randn(30, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def as_numpy(sae: NestedSAE) -> Weights:
    return {name: p.detach().numpy().copy() for name, p in sae.named_parameters()}


def layer_norm(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = x.mean(1, keepdims=True)
    std = np.sqrt(((x - mean) ** 2).mean(1, keepdims=True) + 1e-5)
    return (x - mean) / std, mean, std


def slices(n_shared: int) -> dict[str, slice]:
    parts = {"shared": slice(0, n_shared), "special": slice(n_shared, 24)}
    return {name: part for name, part in parts.items() if part.stop > part.start}


def acts_of(w: Weights, normal: np.ndarray, n_shared: int) -> np.ndarray:
    pre = normal @ w["W_enc"] + w["b_enc"]
    acts = np.zeros_like(pre)
    for name, part in slices(n_shared).items():
        own, _, _ = layer_norm(pre[:, part])
        acts[:, part] = np.maximum(own * w[f"norm_{name}_weight"] + w[f"norm_{name}_bias"], 0)
    return acts


def gradients_of(
    w: Weights, normal: np.ndarray, n_shared: int, prices: dict[str, float]
) -> tuple[dict[str, float], Weights]:
    acts = acts_of(w, normal, n_shared)
    error = normal - acts @ w["W_dec"] - w["b_dec"]
    losses = {"reconstruction": (error**2).sum(1).mean()}
    gradients = {"W_dec": -2 * acts.T @ error / len(normal), "b_dec": -2 * error.mean(0)}
    to_pre = np.zeros_like(acts)
    pre = normal @ w["W_enc"] + w["b_enc"]
    for name, part in slices(n_shared).items():
        losses[f"l1_{name}"] = acts[:, part].sum(1).mean()
        own, _, std = layer_norm(pre[:, part])
        to_acts = -2 * error @ w["W_dec"][part].T + prices[name]
        to_normal = to_acts * (acts[:, part] > 0) / len(normal)
        gradients[f"norm_{name}_weight"] = (to_normal * own).sum(0)
        gradients[f"norm_{name}_bias"] = to_normal.sum(0)
        scaled = to_normal * w[f"norm_{name}_weight"]
        centred = scaled - scaled.mean(1, keepdims=True)
        to_pre[:, part] = (centred - own * (scaled * own).mean(1, keepdims=True)) / std
    gradients["W_enc"] = normal.T @ to_pre
    gradients["b_enc"] = to_pre.sum(0)
    return losses, gradients


@pytest.mark.parametrize(("shared", "n_shared"), [(0.2, 5), (0.0, 0), (0.5, 12)])
def test_forward_agrees_with_the_formula(shared: float, n_shared: int) -> None:
    sae, x = make(shared=shared), batch()
    assert sae.config.n_shared == n_shared
    w = as_numpy(sae)
    normal, mean, std = layer_norm(x.numpy())
    acts = acts_of(w, normal, n_shared)
    out = sae(x)
    np.testing.assert_allclose(out.acts.dense().detach().numpy(), acts * std, rtol=1e-9, atol=1e-12)
    wanted = (acts @ w["W_dec"] + w["b_dec"]) * std + mean
    np.testing.assert_allclose(out.sae_out.detach().numpy(), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("shared", "n_shared"), [(0.2, 5), (0.0, 0)])
def test_loss_and_one_optimiser_step_agree_with_the_paper(shared: float, n_shared: int) -> None:
    prices = {"shared": 0.3, "special": 0.7}
    sae, x = make(shared=shared, lambda_shared=0.3, lambda_special=0.7), batch()
    w = as_numpy(sae)
    normal, _, _ = layer_norm(x.numpy())
    parts, gradients = gradients_of(w, normal, n_shared, prices)
    total = parts["reconstruction"]
    total += sum(prices[name] * parts[f"l1_{name}"] for name in slices(n_shared))

    optimizer = torch.optim.SGD(sae.parameters(), lr=0.1)
    losses = sae.losses(x, NOW)
    losses["loss"].backward()
    assert losses["loss"].item() == pytest.approx(total, rel=1e-9)
    for name, value in parts.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-9)
    assert {name for name, _ in sae.named_parameters()} == set(gradients)
    for name, parameter in sae.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), gradients[name], rtol=1e-6, atol=1e-10)

    D, G = w["W_dec"], gradients["W_dec"]
    G -= (G * D).sum(1, keepdims=True) * D
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    sae.before_update()
    optimizer.step()
    sae.after_update(NOW, optimizer)
    for name, value in as_numpy(sae).items():
        wanted = w[name] - 0.1 * gradients[name] / norm
        if name == "W_dec":
            wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-9, err_msg=name)


def test_the_flat_baseline_has_no_shared_norm() -> None:
    names = set(make(shared=0.0).weights())
    assert names == {"W_enc", "b_enc", "W_dec", "b_dec", "norm_special_weight", "norm_special_bias"}
    assert set(make().weights()) == names | {"norm_shared_weight", "norm_shared_bias"}


@pytest.mark.parametrize("shared", [0.2, 0.0])
def test_the_report_of_both_dictionaries(shared: float) -> None:
    sae, x = make(shared=shared), batch()
    n_shared = sae.config.n_shared
    w = as_numpy(sae)
    normal, mean, std = layer_norm(x.numpy())
    acts = acts_of(w, normal, n_shared)
    found = sae.report(x)
    parts = {"shared": slice(0, n_shared), "special": slice(n_shared, 24)}
    pieces = {name: acts[:, part] @ w["W_dec"][part] * std for name, part in parts.items()}
    pieces["bias"] = w["b_dec"] * std + mean

    def explained(names: tuple[str, ...]) -> float:
        left = x.numpy() - sum(pieces[name] for name in names)
        return float(1 - left.var(0).sum() / x.numpy().var(0).sum())

    orders = list(permutations(pieces))
    for name, part in parts.items():
        fired = acts[:, part] > 0
        gains = [explained(o[: o.index(name) + 1]) - explained(o[: o.index(name)]) for o in orders]
        assert found.pop(f"{name}_l0") == pytest.approx(fired.sum(1).mean())
        assert found.pop(f"{name}_rate") == pytest.approx(fired.mean() if fired.size else 0.0)
        shapley = sum(gains) / len(gains)
        assert found.pop(f"{name}_explained_variance") == pytest.approx(shapley, abs=1e-9)
    assert not found


def test_a_dictionary_of_one_latent_is_refused() -> None:
    for shared, sizes in ((0.04, "1 and 23"), (0.99, "24 and 0"), (0.96, "23 and 1")):
        with pytest.raises(UsageError, match=f"gives parts of {sizes}; a layer norm needs 2"):
            parse_config({**CONFIG, "shared": shared})
