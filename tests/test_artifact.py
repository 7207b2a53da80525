"""Saved SAEs: round trips, frozen golden files, and everything that can be wrong with a file."""

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_architectures import every, tiny

from hsae_hub.architectures import list_architectures
from hsae_hub.artifact import (
    CONFIG,
    STATS,
    WEIGHTS,
    FileInfo,
    HookpointConfig,
    LatentTable,
    ModelConfig,
    TokensConfig,
    TrainingConfig,
    config_schema,
    migrations,
    read_artifact,
    read_config,
    save_sae,
    sha256_file,
)
from hsae_hub.errors import CorruptError, NotFoundError

DATA = Path(__file__).parent / "data"
SCHEMA = Path(__file__).parent.parent / "hsae_hub" / "artifact" / "config.schema.json"


def save_full(folder: Path, name: str = "hsae") -> torch.nn.Module:
    sae = tiny(name)
    save_sae(
        sae,
        folder,
        model=ModelConfig(id="gemma2-tiny-en"),
        hookpoint=HookpointConfig(path="model.layers.3", hidden_states=4),
        tokens=TokensConfig(context_length=128),
        training=TrainingConfig(seed=0, steps=10, tokens=640, data=["a file"], written_by="test"),
        stats=LatentTable(torch.rand(sae.d_sae), torch.rand(sae.d_sae), 640),
    )
    return sae


def edit_config(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / CONFIG).read_text())
    data.update(changes)
    (folder / CONFIG).write_text(json.dumps(data))


def rewrite_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Puts other weights in the folder, with a config that vouches for them."""
    save_file(tensors, folder / WEIGHTS)
    path = folder / WEIGHTS
    files = json.loads((folder / CONFIG).read_text())["files"]
    files[WEIGHTS] = FileInfo(sha256=sha256_file(path), size=path.stat().st_size).model_dump()
    edit_config(folder, files=files)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_round_trip_through_disk_is_exact(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    sae, x = tiny(name).to(dtype), torch.randn(6, 8)
    save_sae(sae, tmp_path)
    loaded = read_artifact(tmp_path).sae
    assert loaded.dtype == dtype and loaded.config == sae.config
    assert torch.equal(loaded(x).sae_out, sae(x).sae_out)
    assert {n: p.stride() for n, p in loaded.named_parameters()} == {
        n: p.stride() for n, p in sae.named_parameters()
    }
    assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training


def test_whitening_is_saved_with_the_weights(tmp_path: Path) -> None:
    sae, x = tiny("hsae", whiten=True), 4 * torch.randn(40, 8) + 1
    sae.fit_normalization(x)
    save_sae(sae, tmp_path)
    loaded = read_artifact(tmp_path).sae
    assert torch.equal(loaded(x).sae_out, sae(x).sae_out)
    tensors = load_file(tmp_path / WEIGHTS)
    assert tensors["norm_whiten"].shape == tensors["norm_unwhiten"].shape == (8, 8)
    rewrite_weights(tmp_path, {k: v for k, v in tensors.items() if k != "norm_whiten"})
    with pytest.raises(CorruptError, match="lacks tensor 'norm_whiten'"):
        read_artifact(tmp_path)


def test_everything_known_comes_back(tmp_path: Path) -> None:
    save_full(tmp_path)
    sae, config, stats = read_artifact(tmp_path, ref="org/name")
    assert config.model == ModelConfig(id="gemma2-tiny-en") and config.tokens.context_length == 128
    assert stats is not None and stats.tokens == 640 and stats.p999.shape == (sae.d_sae,)
    assert sae.info.config is config and sae.info.ref == "org/name"
    written = json.loads((tmp_path / CONFIG).read_text())
    assert list(written)[:3] == ["format_version", "architecture", "d_in"]
    assert written["d_sae"] == sae.d_sae and set(written["files"]) == {WEIGHTS, STATS}
    assert sorted(os.listdir(tmp_path)) == sorted([CONFIG, STATS, WEIGHTS])


def test_files_have_the_permissions_of_any_other_new_file(tmp_path: Path) -> None:
    save_full(tmp_path)
    (tmp_path / "other").touch()
    modes = {(tmp_path / name).stat().st_mode for name in (CONFIG, STATS, WEIGHTS, "other")}
    assert len(modes) == 1


def test_saving_again_without_stats_removes_the_old_ones(tmp_path: Path) -> None:
    sae = save_full(tmp_path)
    save_sae(sae, tmp_path)
    assert not (tmp_path / STATS).exists() and read_artifact(tmp_path).stats is None


@pytest.mark.parametrize("folder", sorted(DATA.glob("format_v*/*")), ids=lambda p: p.name)
def test_frozen_files_of_every_version_read_the_same_for_ever(folder: Path) -> None:
    golden = load_file(folder / "golden" / "forward.safetensors")
    sae = read_artifact(folder).sae
    out = sae(golden["x"])
    torch.testing.assert_close(out.sae_out, golden["sae_out"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.acts.dense(), golden["acts"], rtol=1e-5, atol=1e-6)


def test_there_are_frozen_files() -> None:
    assert {p.name for p in (DATA / "format_v1").iterdir()} >= set(list_architectures())


def test_the_published_schema_is_that_of_the_code() -> None:
    """After a change: python -m hsae_hub.artifact.schema."""
    assert json.loads(SCHEMA.read_text()) == config_schema()


@pytest.mark.parametrize("change", ["one byte", "truncated", "appended"])
@pytest.mark.parametrize("name", [WEIGHTS, STATS])
def test_changed_bytes_are_found(change: str, name: str, tmp_path: Path) -> None:
    save_full(tmp_path)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    if change == "one byte":
        data[-5] ^= 4
    path.write_bytes(data[:-9] if change == "truncated" else data + b"x" * (change == "appended"))
    expected = "sha256" if change == "one byte" else "bytes, expected"
    with pytest.raises(CorruptError, match=rf"{re.escape(name)}.*{expected}"):
        read_artifact(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    save_full(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(NotFoundError, match=r"sae\.safetensors is missing"):
        read_artifact(tmp_path)
    with pytest.raises(NotFoundError, match=r"no config\.json"):
        read_config(tmp_path / "nowhere")


def test_tensors_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    save_full(tmp_path, "topk")
    good = load_file(tmp_path / WEIGHTS)
    for tensors, message in [
        ({**good, "W_dec": good["W_dec"][:-1]}, r"W_dec has shape \[19, 8\].*gives \[20, 8\]"),
        ({**good, "W_dec": good["W_dec"].T.contiguous()}, r"W_dec has shape \[8, 20\]"),
        ({k: v for k, v in good.items() if k != "b_dec"}, "lacks tensor 'b_dec'"),
        ({**good, "extra": torch.zeros(1)}, "has unknown tensor 'extra'"),
        ({**good, "b_dec": good["b_dec"].half()}, "b_dec is float16, but the config says float32"),
        ({**good, "b_dec": good["b_dec"] * float("nan")}, "b_dec has 8 of 8 values .* not finite"),
    ]:
        rewrite_weights(tmp_path, tensors)
        with pytest.raises(CorruptError, match=message):
            read_artifact(tmp_path)


def test_a_header_that_lies_about_its_size_takes_no_memory(tmp_path: Path) -> None:
    save_full(tmp_path, "topk")
    path = tmp_path / WEIGHTS
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])
    files = json.loads((tmp_path / CONFIG).read_text())["files"]
    files[WEIGHTS]["sha256"] = sha256_file(path)
    edit_config(tmp_path, files=files)
    with pytest.raises(CorruptError, match="a header of 1152921504606846976 bytes cannot be"):
        read_artifact(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "hsea"}, "unknown architecture 'hsea'; did you mean 'hsae'"),
        ({"n_parent": 3}, "n_parent: unknown key; did you mean 'n_parents'"),
        ({"k": 99}, r"k \(=99\) must be at most n_parents \(=12\)"),
        ({"d_sae": 47}, "d_sae is 47, but its shape gives 48"),
        ({"files": {}}, "files does not name sae.safetensors"),
        ({"files": {"../x.safetensors": {"sha256": "0" * 64, "size": 1}}}, "files"),
        ({"files": {WEIGHTS: {"sha256": "no", "size": 1}}}, "sha256"),
        ({"model": {"id": "a", "dtype": "int8"}}, "model.dtype"),
        ({"format_version": 99}, "format_version 99; this hsae-hub reads up to 1"),
        ({"format_version": "1"}, "format_version is '1'"),
        ({"format_version": True}, "format_version is True"),
    ],
)
def test_a_wrong_config_is_refused_in_one_line(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_full(tmp_path)
    edit_config(tmp_path, **change)
    with pytest.raises(CorruptError, match=message) as caught:
        read_artifact(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "\x00", '{"a": 1' + " " * (1 << 20)])
def test_a_config_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(CorruptError, match=re.escape(CONFIG)):
        read_config(tmp_path)


def test_a_nan_is_not_saved_and_nothing_is_left(tmp_path: Path) -> None:
    sae = tiny("topk")
    with torch.no_grad():
        sae.W_dec[3, 2] = float("inf")
    with pytest.raises(CorruptError, match="W_dec has 1 of 160 values that are not finite"):
        save_sae(sae, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_older_format_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_full(tmp_path)
    edit_config(tmp_path, k=None)
    data = json.loads((tmp_path / CONFIG).read_text())
    data["top"] = 3
    del data["k"]
    (tmp_path / CONFIG).write_text(json.dumps(data))
    monkeypatch.setattr(migrations, "FORMAT_VERSION", 2)
    renamed = {1: lambda old: {("k" if key == "top" else key): old[key] for key in old}}
    monkeypatch.setattr(migrations, "MIGRATIONS", renamed)
    config = read_config(tmp_path)
    assert config.format_version == 2 and config.sae.k == 3
