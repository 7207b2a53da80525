"""CompositionalLens in NumPy, in float64 or complex, written from the definition (its paper, eq. 1-5)."""

from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


def tier_acts(w: Weights, x: np.ndarray, *, first: bool, training: bool) -> list:
    acts: list[np.ndarray] = []
    signal = x
    for i in range(1, sum(name.startswith("b_") for name in w)):  # b_dec is one of them
        if i > 1:
            end = "" if i == 2 else f"_{i - 1}"
            before = acts[-1]
            mean = before.mean(0) if training else w["bn_mean" + end]
            var = ((before - mean) ** 2).mean(0) if training else w["bn_var" + end]
            even = (before - mean) / (var + 1e-5) ** 0.5 * w["bn_weight" + end] + w["bn_bias" + end]
            basis = w[f"W_{i - 1}"] if first else w[f"W_{i}"]
            signal = x + even @ w["W_c" + end] @ basis.T
        pre = signal @ w[f"W_{i}"] + w[f"b_{i}"]
        acts.append(np.where(pre.real > 0, pre, 0))
    return acts


def decoder(w: Weights, i: int) -> np.ndarray:
    return w.get(f"W_dec_{i}", w[f"W_{i}"].T)


def loss_parts(w: Weights, x: np.ndarray, shares: list[float], *, first: bool) -> dict[str, Any]:
    acts = tier_acts(w, x, first=first, training=True)
    x_hat, sparsity, composition = w["b_dec"], 0.0, 0.0
    for i, (share, act) in enumerate(zip(shares, acts, strict=True), start=1):
        x_hat = x_hat + share * act @ decoder(w, i)
        sparsity += share * act.sum() / len(x)
        if i > 1:
            W_c = w["W_c" if i == 2 else f"W_c_{i - 1}"]
            composition += share * ((act - acts[i - 2] @ W_c) ** 2).sum() / len(x)
    reconstruction = ((x - x_hat) ** 2).sum() / len(x)
    return {
        "loss": reconstruction + 0.3 * sparsity + 0.2 * composition,
        "reconstruction": reconstruction,
        "sparsity": sparsity,
        "composition": composition,
    }
