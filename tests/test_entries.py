"""Entries in a list, against all of them by plain products and autograd, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hsae_hub.architectures import TrainStep, build
from hsae_hub.ops import entries

FLAT = {"d_in": 20, "d_sae": 64}
CASES: dict[str, dict[str, Any]] = {
    "l1": {},
    "group": {"normalize": "none", "gamma": 1.7},
    "gated": {"lambda_l1": 0.3},
    "gated without a bias before": {"lambda_l1": 0.3, "pre_encoder_bias": False},
    "jumprelu": {"lambda_l0": 0.1, "init_threshold": 0.5, "bandwidth": 0.6}
    | {"penalty_warmup_steps": 0},
}


def found(case: str, few: int, bias: float, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Losses and gradients; `few` says when entries are listed."""
    monkeypatch.setattr(entries, "_FEW", few)
    sae = build({"architecture": case.split()[0], **FLAT, **CASES[case]}, seed=1).double()
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in sae.named_parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=noise, dtype=p.dtype))
            if name in ("b_enc", "b_gate"):
                p.add_(bias)
    x = torch.randn(30, 20, generator=noise, dtype=torch.float64)
    losses = sae.losses(x, TrainStep(5, 10))
    losses["loss"].backward()
    zero = torch.zeros(())
    return [*losses.values(), *(zero if p.grad is None else p.grad for p in sae.parameters())]


@pytest.mark.parametrize("bias", [0.0, -1.5, -100.0], ids=["half", "few", "none"])
@pytest.mark.parametrize("case", CASES)
def test_a_list_gives_the_losses_and_gradients_of_all(
    case: str, bias: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = found(case, 10**9, bias, monkeypatch)
    seen = []
    ours = entries.pair_sum
    monkeypatch.setattr(entries, "pair_sum", lambda *a: seen.append(len(a[0])) or ours(*a))
    listed = found(case, 1, bias, monkeypatch)
    assert seen and (seen[0] > 0) == (bias > -100) and seen[0] < 30 * 64
    for one, other in zip(every, listed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_what_is_many_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "pair_sum", None)
    found("group", 32, 0.0, monkeypatch)
