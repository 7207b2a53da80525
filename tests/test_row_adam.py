"""Updates from the factors of gradients, against torch's Adam on dense ones between projecting and renormalising."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from hsae_hub.architectures import SAE, TrainStep, build
from hsae_hub.ops import entries
from hsae_hub.ops.kernels import update
from hsae_hub.recipes import TrainSection
from hsae_hub.training.row_adam import RowAdam
from hsae_hub.training.trainer import Member

D_IN, BATCH, STEPS = 36, 24, 30
FLAT = {"architecture": "topk", "d_sae": 50, "k": 4}
TREE = {"architecture": "hsae", "n_parents": 40, "n_children": 3, "d_subspace": 2, "k": 4}
SPARSE = {"lambda_ortho": 0.0, "l1_over": "active", "penalty_warmup_steps": 20}
CASES = {
    "topk": FLAT,
    "topk without biases": FLAT | {"bias": False},
    "topk with dead latents": FLAT | {"dead_after_tokens": 2 * BATCH, "aux_weight": 1.0},
    "hsae": TREE | SPARSE,
    "hsae with a bias": TREE | SPARSE | {"bias": True},
    "hsae, penalties now and then": TREE | {"penalty_warmup_steps": 8, "penalty_every": 3},
    "hsae, probes": TREE | {"ortho": "probes", "l1_over": "active"},
    "batch_topk": {"architecture": "batch_topk", "d_sae": 50, "k": 4},
    "batch_topk with dead latents": {"architecture": "batch_topk", "d_sae": 50, "k": 4}
    | {"dead_after_tokens": 2 * BATCH, "aux_weight": 1.0},
    "switch": {"architecture": "switch", "d_sae": 50, "n_experts": 5, "k": 4},
    "matryoshka": {"architecture": "matryoshka", "d_sae": 50, "k": 4, "prefixes": [5, 20, 50]},
    "l1": {"architecture": "l1", "d_sae": 50},
    "group": {"architecture": "group", "d_sae": 53, "group_clip_norm": 0.1, "weight_decay": 0.1},
    "jumprelu": {"architecture": "jumprelu", "d_sae": 50, "lambda_l0": 0.1, "bandwidth": 0.3}
    | {"init_threshold": 0.5, "penalty_warmup_steps": 0},
    "gated": {"architecture": "gated", "d_sae": 50, "lambda_l1": 0.1},
}
MACHINES = [
    pytest.param(torch.float64, id="plain"),
    pytest.param(
        torch.float32,
        id="numba",
        marks=pytest.mark.skipif(
            update.pick(torch.zeros(1)) is update.plain_update, reason="numba is not installed"
        ),
    ),
]


def section(**settings: Any) -> TrainSection:
    given = {"steps": STEPS, "batch_size": BATCH, "lr": 0.01, "warmup_steps": 0}
    return TrainSection(**given | settings)


def batches(dtype: torch.dtype, n: int = STEPS) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(n):
        yield torch.randn(BATCH, D_IN, generator=generator, dtype=torch.float64).to(dtype)


def dense_training(sae: SAE[Any], train: TrainSection) -> list[float]:
    """What the trainer does where an architecture looks at gradients itself."""
    optimizer = torch.optim.Adam(sae.parameters(), lr=train.lr)
    norms = []
    for i, x in enumerate(batches(sae.dtype)):
        optimizer.zero_grad()
        step = TrainStep(i, STEPS)
        torch.autograd.backward(sae.losses(x, step)["loss"])
        sae.before_update()
        limit = torch.inf if train.clip_norm is None else train.clip_norm
        norms.append(float(torch.nn.utils.clip_grad_norm_(sae.parameters(), limit)))
        optimizer.step()
        sae.after_update(step, optimizer)
    return norms


def train_by_rows(sae: SAE[Any], train: TrainSection) -> list[float]:
    member = Member("main", sae, RowAdam(sae, train))
    norms = []
    for i, x in enumerate(batches(sae.dtype)):
        member.optimizer.zero_grad()
        step = TrainStep(i, STEPS)
        with member.following():
            torch.autograd.backward(sae.losses(x, step)["loss"])
        norms.append(member.clip(train.clip_norm))
        member.update(train.lr, step)
    member.settle()
    return norms


@pytest.mark.parametrize("dtype", MACHINES)
@pytest.mark.parametrize("case", CASES)
def test_it_trains_as_dense_adam_does(case: str, dtype: torch.dtype) -> None:
    train = section(clip_norm=0.3, adam="dense")
    one = build({"d_in": D_IN, **CASES[case]}, seed=3).to(dtype)
    other = deepcopy(one)
    start = deepcopy(one)
    wanted, found = dense_training(one, train), train_by_rows(other, train)
    assert min(wanted[:5]) > 0.3, "the gradient is not clipped here"
    exact = dtype == torch.float64
    assert found == pytest.approx(wanted, rel=1e-9 if exact else 1e-2)
    pairs = zip(one.named_parameters(), other.parameters(), start.parameters(), strict=True)
    for (name, p), q, before in pairs:
        moved = (p - before).norm()
        assert moved > 0, name
        assert (q - p).norm() < (1e-9 if exact else 2e-3) * moved, name


@pytest.mark.parametrize("dtype", MACHINES)
@pytest.mark.parametrize("case", ["l1", "group", "jumprelu", "gated"])
def test_a_list_of_entries_trains_as_all_of_them_do(
    case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = section(clip_norm=0.3, adam="dense")
    one = build({"d_in": D_IN, **CASES[case]}, seed=3).to(dtype)
    other, start = deepcopy(one), deepcopy(one)
    monkeypatch.setattr(entries, "_FEW", 10**9)
    wanted = dense_training(one, train)
    monkeypatch.setattr(entries, "_FEW", 1)
    monkeypatch.setattr(entries, "product", None)
    assert train_by_rows(other, train) == pytest.approx(
        wanted, rel=1e-9 if dtype.itemsize == 8 else 1e-2
    )
    for p, q, before in zip(one.parameters(), other.parameters(), start.parameters(), strict=True):
        moved = (p - before).norm()
        assert (q - p).norm() < (1e-9 if dtype.itemsize == 8 else 2e-3) * moved


@pytest.mark.parametrize("case", ["topk", "hsae", "hsae, penalties now and then"])
def test_deferred_steps_change_next_to_nothing(case: str) -> None:
    start = build({"d_in": D_IN, **CASES[case]}, seed=3).double()
    dense, deferred = deepcopy(start), deepcopy(start)
    train_by_rows(dense, section(adam="dense", final_lr=1.0))
    train_by_rows(deferred, section(final_lr=1.0))
    assert not torch.equal(dense.W_dec, deferred.W_dec)
    assert deferred.W_enc._version >= STEPS, "a change that nobody would notice"
    pairs = zip(dense.parameters(), deferred.parameters(), start.parameters(), strict=True)
    for p, q, before in pairs:
        assert (q - p).norm() < 1e-3 * (p - before).norm()
