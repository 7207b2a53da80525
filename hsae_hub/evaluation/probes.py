"""Linear probes: one-against-the-rest by Adam, as in absorption's definition, and logistic ones on a few columns."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix
from torch import Tensor

from hsae_hub.ops import weighted_rows

Array = np.ndarray
EPOCHS = 50
BATCH = 4096
STEPS = 10  # of an epoch, at least: a small vocabulary would fill less than one batch of SAEBench's size
LR = (1e-2, 1e-5)
L2 = 1e-6
L1 = 0.01


class Probe(NamedTuple):
    """One linear probe a class."""

    weight: Float[Array, "classes width"]
    bias: Float[Array, " classes"]

    def scores(self, x: Float[Array, "n width"]) -> Float[Array, "n classes"]:
        """Positive where a class is seen."""
        return np.asarray(x @ self.weight.T + self.bias)


def train_probe(
    x: Float[Array, "n width"], labels: Int[Array, " n"], n_classes: int, seed: int
) -> Probe:
    """One-against-the-rest probes on dense rows; each class weighs as much as the rest together."""
    weight = torch.zeros(x.shape[1], n_classes, requires_grad=True)
    rows = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    bias = _fit(weight, lambda some: rows[some] @ weight, labels, n_classes, seed, l1=0.0)
    return Probe(weight.detach().T.numpy(), bias)


def train_sparse_probe(
    acts: csr_matrix, labels: Int[Array, " n"], n_classes: int, seed: int
) -> Float[Array, "classes d_sae"]:
    """Weights of probes on acts under an L1 penalty, which picks latents; 0 for those that never act."""
    used = np.unique(acts.indices)
    values, columns = _slots(acts[:, used])
    weight = torch.zeros(max(len(used), 1), n_classes, requires_grad=True)
    _fit(
        weight,
        lambda some: weighted_rows(values[some], columns[some], weight),
        labels,
        n_classes,
        seed,
        l1=L1,
    )
    found = np.zeros((n_classes, acts.shape[1]), dtype=np.float32)
    found[:, used] = weight.detach().T.numpy()[:, : len(used)]
    return found


@torch.enable_grad()
def _fit(
    weight: Float[Tensor, "width classes"],
    logits: Callable[[Tensor], Float[Tensor, "batch classes"]],
    labels: Int[Array, " n"],
    n_classes: int,
    seed: int,
    *,
    l1: float,
) -> Float[Array, " classes"]:
    n = len(labels)
    y = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), n_classes).float()
    positive = y.sum(0).clamp_min(1)
    loss_of = torch.nn.BCEWithLogitsLoss(pos_weight=(n - positive) / positive)
    bias = torch.zeros(n_classes, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=LR[0], weight_decay=L2, fused=True)
    decay = (LR[1] / LR[0]) ** (1 / EPOCHS)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
    generator = torch.Generator().manual_seed(seed)
    batch = max(1, min(BATCH, -(-n // STEPS)))
    for _ in range(EPOCHS):
        for some in torch.split(torch.randperm(n, generator=generator), batch):
            optimizer.zero_grad()
            loss = loss_of(logits(some) + bias, y[some])
            if l1:
                loss = loss + l1 * weight.abs().sum(0).mean()
            loss.backward()
            optimizer.step()
        schedule.step()
    return bias.detach().numpy()


def _slots(acts: csr_matrix) -> tuple[Tensor, Tensor]:
    """The entries of each row in as many slots as the fullest one needs; a free slot holds 0."""
    sizes = np.diff(acts.indptr)
    width = max(int(sizes.max(initial=0)), 1)
    values = np.zeros((acts.shape[0], width), dtype=np.float32)
    columns = np.zeros((acts.shape[0], width), dtype=np.int64)
    taken = np.arange(width) < sizes[:, None]
    values[taken], columns[taken] = acts.data, acts.indices
    return torch.from_numpy(values), torch.from_numpy(columns)


def fit_logistic(
    x: Float[Array, "n k"], y: Bool[Array, " n"], *, balanced: bool = False
) -> tuple[Float[Array, " k"], float]:
    """Weights and bias of a logistic probe of a few columns (scikit-learn, C = 1)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000, class_weight="balanced" if balanced else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a separable class has no optimum
        model.fit(x, y)
    return model.coef_[0].astype(np.float64), float(model.intercept_[0])


def f1(truth: Bool[Array, " n"], guess: Bool[Array, " n"]) -> float:
    """Harmonic mean of precision and recall, 0 to 1."""
    hits = int((truth & guess).sum())
    return 2 * hits / max(int(truth.sum()) + int(guess.sum()), 1)
