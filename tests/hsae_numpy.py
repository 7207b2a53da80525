"""H-SAE in NumPy, float64, loop by loop (Muchane et al. 2025, algorithm 1, eq. 3.2-3.4): the oracle of `test_hsae`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]


@dataclass
class Settings:
    k: int
    beta: float = 0.1
    lambda_ortho: float = 0.1
    lambda_l1: float = 0.001
    ramp: float = 1.0
    released: bool = False


def forward(
    w: Weights, x: Array, k: int
) -> tuple[Array, Array, list[list[tuple[int, float, int, Array]]]]:
    """Parents' and full reconstruction of unit-norm tokens, and per token (parent, act, best child, all children)."""
    d = x.shape[1]
    theta = d**-0.5
    high, low, codes = np.zeros_like(x), np.zeros_like(x), []
    for t, token in enumerate(x):
        z = token @ w["W_enc"]
        z[z < theta] = 0
        code = []
        for j in np.argsort(-z, kind="stable")[:k]:
            inner = w["W_down"][j] @ token
            pre = w["child_W_enc"][j] @ inner
            children = np.where(pre >= theta, pre, 0.01 * pre)
            best = int(children.argmax())
            code.append((int(j), float(z[j]), best, children))
            if z[j] > 0:
                high[t] += z[j] * w["W_dec"][j]
                low[t] += w["W_up"][j] @ (children[best] * w["child_W_dec"][j][:, best])
        codes.append(code)
    return high, high + low, codes


def ortho(w: Weights, released: bool) -> tuple[float, Array, Array]:
    """The penalty by its full n × n matrix, and its gradients for W_dec and W_enc."""
    D, E = w["W_dec"], w["W_enc"]
    D_norm = np.linalg.norm(D, axis=1, keepdims=True)
    E_norm = np.linalg.norm(E, axis=0, keepdims=True)
    D_hat, E_hat = D / (D_norm + 1e-6), E / (E_norm + 1e-6)
    M = D_hat @ E_hat
    n = len(M)
    R = M - (np.diag(M)[None, :] if released else np.diag(np.diag(M)))
    size = np.linalg.norm(R)
    dR = R / size / (n * n - n)
    dM = dR.copy()
    if released:
        dM[np.arange(n), np.arange(n)] -= dR.sum(0)
    dD_hat, dE_hat = dM @ E_hat.T, D_hat.T @ dM
    D_all, E_all = D_norm + 1e-6, E_norm + 1e-6
    dD = dD_hat / D_all - D * (dD_hat * D).sum(1, keepdims=True) / (D_all**2 * D_norm)
    dE = dE_hat / E_all - E * (dE_hat * E).sum(0, keepdims=True) / (E_all**2 * E_norm)
    return float(size / (n * n - n)), dD, dE


def loss_and_gradients(w: Weights, x: Array, s: Settings) -> tuple[float, Weights]:
    """The loss of a batch of unit-norm tokens and its gradient for every weight."""
    batch, theta = len(x), x.shape[1] ** -0.5
    high, full, codes = forward(w, x, s.k)
    r, r_high = x - full, x - high
    penalty, dD, dE = ortho(w, s.released)
    g = {name: np.zeros_like(value) for name, value in w.items()}
    g["W_dec"] += s.ramp * s.lambda_ortho * dD
    g["W_enc"] += s.ramp * s.lambda_ortho * dE
    l1_unit = s.ramp * s.lambda_l1 / batch
    l1 = 0.0
    for t, token in enumerate(x):
        d_low = -2 * r[t] / batch
        d_high = d_low - 2 * s.beta * r_high[t] / batch
        z = token @ w["W_enc"]
        above = z >= theta
        l1 += z[above].sum()
        dz = np.where(above, l1_unit, 0.0)
        for j, act, best, children in codes[t]:
            if act <= 0 and not s.released:
                continue
            l1 += np.abs(children).sum()
            dc = l1_unit * np.sign(children)
            if act > 0:
                atom = w["child_W_dec"][j][:, best]
                g["W_dec"][j] += act * d_high
                dz[j] += d_high @ w["W_dec"][j]
                g["W_up"][j] += np.outer(d_low, children[best] * atom)
                inner_grad = w["W_up"][j].T @ d_low
                g["child_W_dec"][j][:, best] += children[best] * inner_grad
                dc[best] += inner_grad @ atom
            inner = w["W_down"][j] @ token
            pre = w["child_W_enc"][j] @ inner
            dpre = dc * np.where(pre >= theta, 1.0, 0.01)
            g["child_W_enc"][j] += np.outer(dpre, inner)
            g["W_down"][j] += np.outer(w["child_W_enc"][j].T @ dpre, token)
        g["W_enc"] += np.outer(token, np.where(above, dz, 0.0))
    loss = (r**2).sum() / batch + s.beta * (r_high**2).sum() / batch
    return loss + s.ramp * (s.lambda_ortho * penalty + s.lambda_l1 * l1 / batch), g


def step(w: Weights, g: Weights, lr: float, clip: float) -> Weights:
    """One first step: projection, global-norm clip, Adam (0.9, 0.999, 1e-8), renormalisation."""
    g = {name: value.copy() for name, value in g.items()}
    D, atoms = w["W_dec"], w["child_W_dec"]
    g["W_dec"] -= (g["W_dec"] * D).sum(1, keepdims=True) * D
    g["child_W_dec"] -= (g["child_W_dec"] * atoms).sum(1, keepdims=True) * atoms
    norm = np.sqrt(sum((value**2).sum() for value in g.values()))
    scale = min(1.0, clip / (norm + 1e-6))
    new = {}
    for name, value in g.items():
        value = value * scale
        m, v = 0.1 * value / (1 - 0.9), 0.001 * value**2 / (1 - 0.999)
        new[name] = w[name] - lr * m / (np.sqrt(v) + 1e-8)
    new["W_dec"] /= np.linalg.norm(new["W_dec"], axis=1, keepdims=True)
    new["child_W_dec"] /= np.linalg.norm(new["child_W_dec"], axis=1, keepdims=True)
    return new
