"""SAEs and texts with known answers, for tests of evaluations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from hsae_hub.architectures import SAE, build
from hsae_hub.evaluation.labelled import Labelled


def flat_sae(rows: np.ndarray) -> SAE[Any]:
    """An SAE with these decoder rows, whatever their norms."""
    sae = build({"architecture": "l1", "d_in": rows.shape[1], "d_sae": len(rows)}, seed=0)
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor(rows, dtype=torch.float32))
    return sae


def sparse(dense: np.ndarray) -> csr_matrix:
    return csr_matrix(dense.astype(np.float32))


def labelled(labels: np.ndarray, n_classes: int, second: np.ndarray | None = None) -> Labelled:
    """Texts that are only their labels; every third one is for testing."""
    n = len(labels)
    return Labelled(
        "planted",
        [str(i) for i in range(n)],
        [f"class{i}" for i in range(n_classes)],
        labels,
        np.arange(n) % 3 != 0,
        second,
    )
