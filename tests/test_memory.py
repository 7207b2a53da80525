"""Memory of training: bounded by what weights and moments take."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from hsae_hub.architectures import TrainStep, build
from hsae_hub.ops.kernels import has_numba
from hsae_hub.recipes import TrainSection
from hsae_hub.training.cost import LiveBytes
from hsae_hub.training.optim import adam
from hsae_hub.training.row_adam import RowAdam
from hsae_hub.training.trainer import Member

BENCH = Path(__file__).parent / "bench"
SHAPE = {
    "architecture": "hsae",
    "d_in": 256,
    "n_parents": 16_384,
    "n_children": 64,
    "d_subspace": 8,
    "k": 32,
}
SCRIPT = f"import json, memory; print(json.dumps(memory.measure({SHAPE}, 512)[0]))"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells, others do not")
def test_two_steps_of_a_large_hsae_stay_below_three_times_its_weights_and_moments() -> None:
    paths = os.pathsep.join([str(BENCH), os.environ.get("PYTHONPATH", "")])
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    weights, moments, step = json.loads(answer.stdout)
    d_in, n, m, s = 256, 16_384, 64, 8
    assert weights == 4 * n * (2 * d_in + 2 * d_in * s + 2 * m * s)
    assert 2 * weights <= moments < 2.03 * weights, "clocks of deferred steps are small"
    assert 0 < step < weights  # a dense gradient alone would take as much


TREE = {"architecture": "hsae", "n_parents": 2048, "n_children": 16, "d_subspace": 8, "k": 4}
FLAT = {"d_sae": 2048, "k": 4}
SHARES: dict[str, tuple[dict[str, Any], float]] = {
    "hsae": ({**TREE, "lambda_ortho": 0.0, "l1_over": "active"}, 0.06),
    "topk": (FLAT, 0.31),
    "batch_topk": (FLAT, 0.34),
    "matryoshka": ({**FLAT, "prefixes": [64, 256, 2048]}, 0.46),
    "switch": ({**FLAT, "n_experts": 8}, 0.19),
    "group": ({"d_sae": 2048}, 0.34),
    "l1": ({"d_sae": 2048}, 0.34),
    "jumprelu": ({"d_sae": 2048, "lambda_l0": 0.1}, 0.34),
    "gated": ({"d_sae": 2048, "lambda_l1": 0.1}, 0.34),
}
"""What a step may take beside weights and moments, as a share of the weights. Of a flat SAE the pre-activations alone
are 0.22, a batch of activations 0.03, a gradient of one matrix would be 0.5."""


@pytest.mark.skipif(not has_numba(), reason="compiled kernels are for that")
@pytest.mark.parametrize("name", SHARES)
def test_a_step_takes_little_beside_its_weights_and_moments(name: str) -> None:
    """An eighth of Gemma-2-2B's width, of 16,384 latents and of 1024 tokens: shares are what they are there."""
    shape, limit = SHARES[name]
    sae = build({"architecture": name, "d_in": 288, **shape})
    for bias in ("b_enc", "b_gate"):
        if "k" not in shape and hasattr(sae, bias):
            getattr(sae, bias).data.fill_(-2.9)  # of some 2048 latents about five act
    train = TrainSection(steps=9, batch_size=128, lr=1e-3, warmup_steps=0)
    optimizer = RowAdam(sae, train)
    member = Member("main", sae, optimizer)
    x = torch.randn(128, 288, generator=torch.Generator().manual_seed(0))

    def work() -> None:
        with member.following():
            torch.autograd.backward(sae.losses(x, TrainStep(5000, 10_000))["loss"])
        member.clip(0.01)
        member.update(1e-3, TrainStep(5000, 10_000))
        optimizer.zero_grad()

    work()  # makes the moments
    moments = [value for state in optimizer.state.values() for value in state.values()]
    with LiveBytes([*sae.parameters(), *sae.buffers(), *moments, x]) as live:
        work()
    share = live.peak / sum(p.nbytes for p in sae.parameters())
    assert limit / 3 < share < limit


def test_the_optimiser_s_step_copies_no_matrix() -> None:
    sae = build(
        {
            "architecture": "hsae",
            "d_in": 64,
            "n_parents": 256,
            "n_children": 4,
            "d_subspace": 4,
            "k": 4,
        }
    )
    optimizer = adam(sae, TrainSection(steps=2, batch_size=16, lr=1e-3, warmup_steps=0))
    torch.autograd.backward(sae.losses(torch.randn(16, 64), TrainStep(0, 2))["loss"])
    optimizer.step()  # makes the moments
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        optimizer.step()
    largest = max(event.self_cpu_memory_usage for event in seen.events())
    assert largest < min(p.nbytes for p in sae.parameters())
