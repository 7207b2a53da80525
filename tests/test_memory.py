"""Memory of training: bounded by what weights and moments take."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from hsae_hub.architectures import TrainStep, build
from hsae_hub.recipes import TrainSection
from hsae_hub.training.optim import adam

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
    assert moments == pytest.approx(2 * weights, rel=1e-6)
    assert 0 < step < weights  # a dense gradient alone would take as much


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
