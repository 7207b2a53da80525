"""ONNX graphs of every architecture, run by onnxruntime."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from test_architectures import batch, every, normalizing, tiny

from hsae_hub.architectures import SAE, SAEConfig, TreeShape
from hsae_hub.errors import CheckFailedError, ResourceError, UsageError
from hsae_hub.onnx import export
from hsae_hub.onnx.checking import Check, judge
from hsae_hub.onnx.exporting import OPSETS

NAMES = ["encode", "decode", "full"]
INPUTS = {"encode": ["x"], "decode": ["values", "indices", "scale", "shift"], "full": ["x"]}


def run(folder: Path, name: str, *inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
    return session.run(None, dict(zip(INPUTS[name], inputs, strict=True)))


def dense(values: np.ndarray, indices: np.ndarray, d_sae: int) -> np.ndarray:
    rows = np.zeros((len(values), d_sae))
    for row, value, index in zip(rows, values, indices, strict=True):
        np.add.at(row, index, value)
    return rows


def fitted(name: str, **settings: Any) -> SAE[Any]:
    """With constants of normalising, and a curriculum and thresholds that are somewhere."""
    sae = tiny(name, **settings)
    sae.fit_normalization(1 + batch(5, rows=100))
    if hasattr(sae, "held_back"):
        sae.held_back.copy_(torch.tensor([0, 0.25]))
    if name in ("batch_topk", "matryoshka"):
        sae.threshold.fill_(0.3)
    return sae


def agree(sae: SAE[Any], folder: Path, x: torch.Tensor) -> None:
    out = sae(x)
    close = {"rtol": 1e-4, "atol": 1e-5}
    values, indices, scale, shift = run(folder, "encode", x.numpy())
    np.testing.assert_allclose(
        dense(values, indices, sae.d_sae), out.acts.dense().detach(), **close
    )
    for found in (
        run(folder, "decode", values, indices, scale, shift)[0],
        run(folder, "full", x.numpy())[0],
    ):
        np.testing.assert_allclose(found, out.sae_out.detach(), **close)


@every
def test_every_architecture_gives_the_acts_and_reconstruction_of_torch(
    name: str, tmp_path: Path
) -> None:
    sae = fitted(name)
    told = export(sae, tmp_path / "out")
    assert told["check"]["acts"] < 1e-5 and told["check"]["reconstruction"] < 1e-5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert sorted(told["files"]) == ["decode.onnx", "encode.onnx", "full.onnx"]
    for graph in NAMES:
        onnx.checker.check_model(tmp_path / "out" / f"{graph}.onnx", full_check=True)
    for rows in (1, 7):
        agree(sae, tmp_path / "out", batch(3, rows))


@normalizing
@pytest.mark.parametrize("name", ["hsae", "l1"])
def test_every_way_of_normalising(name: str, normalize: str, whiten: bool, tmp_path: Path) -> None:
    settings = {"bias": True} if name == "hsae" else {}
    sae = fitted(name, normalize=normalize, whiten=whiten, **settings)
    export(sae, tmp_path, check=False)
    agree(sae, tmp_path, batch(4))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hsae", {"variant": "released", "k": 12}),  # more slots than active parents
        ("topk", {"bias": False}),
        ("jumprelu", {"pre_encoder_bias": False}),
        ("nested", {"shared": 0.0}),
        ("compositional", {"tied": False}),
        (
            "compositional",
            {
                "widths": [6, 6, 6],
                "starts": [0, 0.2, 0.4],
                "compose_through": "first",
                "reallocate_every": None,
            },
        ),
    ],
)
def test_settings_that_change_the_graph(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    sae = tiny(name, **settings)
    export(sae, tmp_path, check=False)
    agree(sae, tmp_path, batch(4))


def test_a_token_without_acts_and_a_batch_without_tokens(tmp_path: Path) -> None:
    sae = tiny("jumprelu", init_threshold=100.0)
    export(sae, tmp_path)
    agree(sae, tmp_path, torch.zeros(3, 8))
    values, indices, *_ = run(tmp_path, "encode", np.zeros((0, 8), np.float32))
    assert values.shape == indices.shape == (0, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_type_compute_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    sae = fitted("hsae", normalize="mean_norm").to(dtype)
    export(sae, tmp_path)
    assert sae.dtype == dtype
    agree(sae.float(), tmp_path, batch(3))


@pytest.mark.parametrize("name", ["compositional", "hsae", "nested", "switch"])
def test_the_newest_opset(name: str, tmp_path: Path) -> None:
    sae = fitted(name)
    export(sae, tmp_path, opset=OPSETS[-1])
    agree(sae, tmp_path, batch(3))


def test_weights_lie_once_in_a_file_where_a_graph_would_be_too_large(tmp_path: Path) -> None:
    sae = tiny("hsae")
    inside, beside = tmp_path / "inside", tmp_path / "beside"
    export(sae, inside)
    told = export(sae, beside, external_above=1000)
    assert "weights.bin" in told["files"]
    agree(sae, beside, batch(3))
    for name in NAMES:
        onnx.checker.check_model(beside / f"{name}.onnx", full_check=True)
    graphs = [onnx.load(beside / f"{name}.onnx", load_external_data=False) for name in NAMES]
    places = [{w.name: str(w.external_data) for w in graph.graph.initializer} for graph in graphs]
    encode, decode, full = places
    assert {name: where for name, where in full.items() if where} == {
        name: where for name, where in (encode | decode).items() if where
    }
    size = (beside / "weights.bin").stat().st_size
    assert size == 65536 * 5 + 4 * sae.W_up_T.numel()  # aligned for mapping into memory
    for name in NAMES:
        assert (beside / f"{name}.onnx").stat().st_size < (inside / f"{name}.onnx").stat().st_size


def test_children_are_read_by_row(tmp_path: Path) -> None:
    """No value in the graph has a size that grows with all children; the weights' own transposes neither."""
    sizes = {"n_parents": 64, "n_children": 16, "d_subspace": 4, "k": 2}
    sae = tiny("hsae", **sizes)
    export(sae, tmp_path)
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "full.onnx"))
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info
    }
    assert len(shapes) > 10
    largest = max(int(np.prod([size or 1 for size in shape])) for shape in shapes.values())
    assert largest <= max(
        64, 2 * 16 * 4, 2 * 4 * 8
    )  # parents; atoms, subspaces of the k active ones


def test_the_config_says_what_the_graphs_take_and_where_they_come_from(tmp_path: Path) -> None:
    from hsae_hub.artifact import HookpointConfig, ModelConfig, read_artifact, save_sae, sha256_file

    saved = save_sae(
        tiny("topk"),
        tmp_path / "sae",
        model=ModelConfig(id="gemma2-tiny-en"),
        hookpoint=HookpointConfig(path="model.layers.1"),
    )
    out = tmp_path / "out"
    told = export(read_artifact(tmp_path / "sae").sae, out, opset=20)
    config = json.loads((out / "config.json").read_text())
    assert config == json.loads(json.dumps(told))
    assert config["model"]["id"] == "gemma2-tiny-en"
    assert config["hookpoint"]["path"] == "model.layers.1"
    assert (
        config["source"]["files"]["sae.safetensors"]["sha256"]
        == saved.files["sae.safetensors"].sha256
    )
    assert config["sae"]["k"] == 3 and config["d_sae"] == 20
    for name, file in config["files"].items():
        assert sha256_file(out / name) == file["sha256"]
    for name, graph in config["graphs"].items():
        session = onnxruntime.InferenceSession(out / graph["file"])
        for side, values in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            assert [v["name"] for v in graph[side]] == [v.name for v in values]
            assert [v["shape"] for v in graph[side]] == [v.shape for v in values]
        model = onnx.load(out / graph["file"])
        assert [o.version for o in model.opset_import] == [20] and name == model.graph.name


def test_a_graph_that_differs_from_torch_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hsae_hub.onnx.encoding.LEAK", 0.5)
    with pytest.raises(CheckFailedError, match="differ from torch"):
        export(tiny("hsae"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "found",
    [
        Check(2e-4, 0, 100, 0),
        Check(0, 2e-4, 100, 0),
        Check(0, float("nan"), 100, 0),
        Check(0, 0, 100, 6),
    ],
)
def test_what_is_too_far_from_torch(found: Check) -> None:
    fine = Check(1e-6, 1e-6, 100, 1)
    assert judge([fine, fine]) == Check(1e-6, 1e-6, 200, 2)
    with pytest.raises(CheckFailedError):
        judge([found])


def test_what_is_there_is_kept_or_replaced_file_by_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(tiny("l1"), out)
    (out / "mine.txt").write_text("x")
    before = (out / "encode.onnx").read_bytes()
    with pytest.raises(UsageError, match="is not empty"):
        export(tiny("topk"), out)
    assert (out / "encode.onnx").read_bytes() == before
    told = export(tiny("topk"), out, overwrite=True)
    assert (out / "mine.txt").exists() and "mine.txt" not in told["files"]
    agree(tiny("topk"), out, batch(3))


def test_what_cannot_be_written_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(SAE[Any]):
        def reset_parameters(self, generator: Any) -> None: ...
        def encode_normalized(self, x: Any) -> Any: ...
        def losses(self, x: Any, step: Any) -> Any: ...

    class OtherConfig(SAEConfig, frozen=True):
        def shape(self) -> TreeShape:
            return TreeShape(4, 0)

    with pytest.raises(UsageError, match="no ONNX graph is known for Other"):
        export(Other(OtherConfig(architecture="other", d_in=8)), tmp_path)
    with pytest.raises(UsageError, match="opset 17 is not one of 18 to"):
        export(tiny("l1"), tmp_path, opset=17)
    monkeypatch.setattr("hsae_hub.onnx.exporting.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="ONNX export needs onnx") as told:
        export(tiny("l1"), tmp_path)
    assert told.value.fix == "pip install 'hsae-hub[onnx]'"
    assert list(tmp_path.iterdir()) == []
