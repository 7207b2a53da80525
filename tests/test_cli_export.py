"""`hsae export`."""

import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from test_architectures import batch, tiny

from hsae_hub.artifact import HookpointConfig, ModelConfig, save_sae
from hsae_hub.cli.main import run
from hsae_hub.interop import EXPORTS


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_sae(
        tiny("hsae"),
        tmp_path / "sae",
        model=ModelConfig(id="gemma2-tiny-en"),
        hookpoint=HookpointConfig(path="model.layers.1"),
    )
    return tmp_path / "sae"


def test_onnx(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "graphs"
    args = ["export", str(saved), "onnx", str(out)]
    assert run(args) == 0
    told = capsys.readouterr()
    assert f"{out}/encode.onnx" in told.out and "over 128 tokens" in told.err
    x = batch()
    session = onnxruntime.InferenceSession(out / "full.onnx")
    (found,) = session.run(["sae_out"], {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), tiny("hsae")(x).sae_out.detach())

    assert run(args) == 2 and "is not empty" in capsys.readouterr().err
    assert run([*args, "--overwrite", "--no-check", "--opset", "21", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "hsae.export/1" and data["opset"] == 21 and data["check"] is None
    assert set(data["files"]) == {"encode.onnx", "decode.onnx", "full.onnx"}
    assert json.loads((out / "config.json").read_text())["model"]["id"] == "gemma2-tiny-en"


def test_a_graph_that_differs_is_a_failed_check(
    saved: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hsae_hub.onnx.encoding.LEAK", 0.5)
    assert run(["export", str(saved), "onnx", str(tmp_path / "graphs")]) == 9
    assert "the ONNX graphs differ from torch" in capsys.readouterr().err
    assert not (tmp_path / "graphs").exists()


def test_another_toolkits_format(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "lens"
    assert run(["export", str(saved), "sae-lens", str(out), "-q"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert "W_down" in load_file(out / "sae_weights.safetensors")
    assert run(["export", str(saved), "sae-lens", str(out), "--overwrite", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files["cfg.json"] == (out / "cfg.json").stat().st_size


def test_help_names_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "-h"]) == 0
    told = "".join(capsys.readouterr().out.split())  # lines break within words
    assert ",".join(["onnx", *EXPORTS]) in told


def test_what_cannot_be_meant(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert run(["export", str(saved), "onx", out]) == 2
    assert "unknown format 'onx'; did you mean 'onnx'?" in capsys.readouterr().err
    assert run(["export", str(saved), "sae-lens", out, "--opset", "18"]) == 2
    assert "are for onnx, not sae-lens" in capsys.readouterr().err
    assert run(["export", str(tmp_path / "nothing"), "onnx", out]) != 0
    assert not Path(out).exists()
