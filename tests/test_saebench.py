"""SAEBench's own core and absorption code on our SAEs; what it asks of them is tested in `test_dense.py` always."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from test_architectures import batch, tiny

from hsae_hub.artifact import HookpointConfig, ModelConfig, TokensConfig, save_sae

HERE = Path(__file__).parent


def test_saebench_measures_what_is_there_in_both_views(tmp_path: Path) -> None:
    python = os.environ.get("HSAE_PEERS_PYTHON")
    if not python:
        pytest.skip("HSAE_PEERS_PYTHON names no Python that has the peers (make peers)")
    for name in ("hsae", "group", "topk"):  # group: layer_norm, so decoding needs the tokens
        sae = tiny(name)
        sae.fit_normalization(1 + batch(5, rows=100))
        save_sae(
            sae,
            tmp_path / name,
            model=ModelConfig(id="gemma2-tiny-en"),
            hookpoint=HookpointConfig(
                path="model.layers.1", transformer_lens="blocks.1.hook_resid_post"
            ),
            tokens=TokensConfig(context_length=16),
        )
    script = [python, HERE / "peers" / "check_saebench.py", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 6
    for about, measured in found.items():
        for figure in ("l0", "l2_ratio"):
            theirs, ours = measured[figure]
            assert theirs == pytest.approx(ours, rel=1e-4), (about, figure)
        width = {"hsae flat": 48, "hsae parents": 12}.get(about, 20)
        assert measured["width"] == measured["dictionary"] == width
        assert all(0 <= fraction <= 1 for fraction in measured["fractions"])
    assert found["hsae parents"]["l0"][0] <= 3 < found["hsae flat"]["l0"][0]
    assert found["group flat"] == found["group parents"]
