"""BatchTopK with nested prefixes in NumPy: acts, losses and gradients, from the papers (Bussmann et al. 2024, 2025)."""

from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class Step(NamedTuple):
    kept: np.ndarray
    squared: list[float]
    """Of each prefix: squared error, summed over dimensions, averaged over tokens."""
    aux: float
    loss: float
    grads: Arrays


def unit(x: np.ndarray) -> np.ndarray:
    return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-6)


def train_step(
    w: Arrays, x: np.ndarray, k: int, prefixes: list[int], dead: list[int], aux_weight: float
) -> Step:
    batch, d_in = x.shape
    centred = x - w["b_dec"]
    pre = centred @ w["W_enc"] + w["b_enc"]
    acts = np.maximum(pre, 0)
    kept = np.zeros_like(acts)
    largest = np.argsort(-acts.ravel())[: k * batch]
    kept.ravel()[largest] = acts.ravel()[largest]

    grads = {name: np.zeros_like(value) for name, value in w.items()}
    d_pre = np.zeros_like(pre)
    squared = []
    for m in prefixes:
        error = x - kept[:, :m] @ w["W_dec"][:m] - w["b_dec"]
        squared.append(float((error**2).sum(1).mean()))
        d_out = -2 * error / batch
        grads["b_dec"] += d_out.sum(0)
        grads["W_dec"][:m] += kept[:, :m].T @ d_out
        d_pre[:, :m] += (d_out @ w["W_dec"][:m].T) * (kept[:, :m] > 0)

    aux = 0.0
    if dead:
        revived = np.zeros_like(pre)
        for t in range(batch):
            for j in sorted(dead, key=lambda j: -pre[t, j])[: d_in // 2]:
                revived[t, j] = max(pre[t, j], 0)
        rest = error - revived @ w["W_dec"]
        aux = float((rest**2).sum(1).mean())
        d_out = -2 * aux_weight * rest / batch
        grads["W_dec"] += revived.T @ d_out
        d_pre += (d_out @ w["W_dec"].T) * (revived > 0)

    grads["W_enc"] = centred.T @ d_pre
    grads["b_enc"] = d_pre.sum(0)
    grads["b_dec"] -= (d_pre @ w["W_enc"].T).sum(0)
    return Step(kept, squared, aux, sum(squared) + aux_weight * aux, grads)


def quiet_bias(w: Arrays, x: np.ndarray, latents: list[int], peak: float) -> np.ndarray:
    """An encoder bias with which these latents reach `peak` on their best token: positive, but never kept."""
    bias = w["b_enc"].copy()
    bias[latents] = peak - ((x - w["b_dec"]) @ w["W_enc"])[:, latents].max(0)
    return bias


def running_average(smallest: list[float], rate: float) -> float:
    """A plain mean of the first 1 / rate values, an exponential one after them."""
    average = 0.0
    for i, value in enumerate(smallest):
        share = max(rate, 1 / (i + 1))
        average = (1 - share) * average + share * value
    return average
