"""The benchmark for a GPU, where there is none: it says so, and at small sizes it runs to its end."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent / "bench"


def run(*words: str) -> str:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(BENCH / "gpu.py"), *words],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_gpu_it_says_so() -> None:
    said = run().splitlines()[-1]
    assert said == "gpu: no GPU here, nothing measured (--quick runs it at small sizes anywhere)"


def test_at_small_sizes_it_runs_to_its_end(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    run("--quick", "--rounds", "1", "--json", str(out))
    found = json.loads(out.read_text())
    checked = {each["name"]: each for each in found["readings"] if each["bar"] is not None}
    assert len(checked) == 30
    for name, reading in checked.items():
        assert reading["spread"]["median"] <= reading["bar"], name
    ratios = {(each["of"], each["over"]) for each in found["ratios"]}
    for kind in ("forward", "step"):
        for name in ("topk 1024", "hsae 256 x 16", "hsae 256 x 64"):
            assert (f"{name}, {kind}, 128 tokens", f"topk 256, {kind}, 128 tokens") in ratios
