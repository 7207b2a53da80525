"""Our SAEs in SAELens itself, by the class that `hsae_hub.interop.sae_lens` registers there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
from test_architectures import batch, tiny

from hsae_hub.architectures import list_architectures
from hsae_hub.artifact import HookpointConfig, ModelConfig, TokensConfig, read_artifact, save_sae
from hsae_hub.interop import EXPORTS, sae_lens_export

HERE = Path(__file__).parent


def write(folder: Path, name: str, **settings: object) -> None:
    """A saved SAE as it is exported, and what it gives."""
    sae = tiny(name, **settings)
    sae.fit_normalization(1 + batch(5, rows=100))
    save_sae(
        sae,
        folder / "sae",
        model=ModelConfig(id="gemma2-tiny-en"),
        hookpoint=HookpointConfig(
            path="model.layers.1", transformer_lens="blocks.1.hook_resid_post"
        ),
        tokens=TokensConfig(context_length=64),
    )
    saved = read_artifact(folder / "sae")
    out = folder / "out" / "_".join([name, *map(str, settings.values())])
    EXPORTS["sae-lens"](saved.sae, saved.config, out)
    assert json.loads((out / "cfg.json").read_text())["architecture"] == "hsae_hub"
    x = batch()
    found = saved.sae(x)
    tensors = {"x": x, "acts": found.acts.dense(), "sae_out": found.sae_out}
    save_file(tensors, out / "expected.safetensors")


def test_sae_lens_loads_every_architecture_with_the_exact_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = os.environ.get("HSAE_PEERS_PYTHON")
    if not python:
        pytest.skip("HSAE_PEERS_PYTHON names no Python that has the peers (peers/make_golden.py)")
    monkeypatch.setattr(sae_lens_export, "FLAT", ())  # those that SAELens has, too
    for name in list_architectures():
        write(tmp_path, name)
    write(tmp_path, "hsae", normalize="layer_norm", whiten=True, bias=True)
    write(tmp_path, "l1", normalize="standardize")
    write(tmp_path, "topk", normalize="mean_norm", whiten=True)
    script = [python, HERE / "peers" / "check_sae_lens.py", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == len(list_architectures()) + 3
    for name, differences in found.items():
        assert max(differences.values()) < 1e-5, (name, differences)


def test_without_sae_lens_one_line_says_what_is_missing() -> None:
    code = (
        "import sys, importlib.util as u, importlib.machinery as m\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'sae_lens' else find(name, *a)\n"
        "from hsae_hub.errors import ResourceError\n"
        "try:\n"
        "    import hsae_hub.interop.sae_lens\n"
        "except ResourceError as error:\n"
        "    print(error, '|', error.fix)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ("hsae_hub.interop.sae_lens needs sae-lens | pip install 'sae-lens>=6'\n")
