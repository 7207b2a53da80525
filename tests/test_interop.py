"""SAEs of other toolkits, read: golden files that their own code wrote (see peers/make_interop.py)."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hsae_hub.interop import Imported, read_foreign

FOLDER = Path(__file__).parent / "data" / "interop"
FOLDERS = sorted(p.parent for p in FOLDER.rglob("golden.safetensors"))
ARCHITECTURES = {
    "sae_lens/standard": "l1",
    "sae_lens/standard_no_pre": "l1",
    "sae_lens/standard_layer_norm": "l1",
    "sae_lens/topk": "topk",
    "sae_lens/topk_rescaled": "topk",
    "sae_lens/jumprelu": "jumprelu",
    "sae_lens/jumprelu_norm": "jumprelu",
    "sae_lens/gated": "gated",
    "sae_lens/topk_no_pre": "topk",
    "sae_lens/gated_no_pre": "gated",
    "sae_lens/batchtopk": "batch_topk",
    "sae_lens/matryoshka": "matryoshka",
    "sae_lens_5/standard": "l1",
    "sae_lens_5/topk": "topk",
    "sae_lens_5/jumprelu": "jumprelu",
    "sae_lens_5/gated": "gated",
    "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71": "jumprelu",
    "gemma-scope-2-1b-pt/resid_post/layer_13_width_16k_l0_medium": "jumprelu",
    "dictionary_learning/auto_encoder": "l1",
    "dictionary_learning/auto_encoder_new": "l1",
    "dictionary_learning/gated": "gated",
    "dictionary_learning/jumprelu": "jumprelu",
    "dictionary_learning/topk": "topk",
    "dictionary_learning/batch_topk": "batch_topk",
    "dictionary_learning/matryoshka": "matryoshka",
    "sparsify/layers.10": "topk",
    "openai/resid_post_mlp_v5_32k/topk": "topk",
    "openai/resid_post_mlp/relu": "l1",
}


def name_of(folder: Path) -> str:
    return folder.relative_to(FOLDER).as_posix()


def read(name: str) -> Imported:
    return read_foreign(FOLDER / name, allow_pickle=True)


def units(imported: Imported, x: torch.Tensor) -> torch.Tensor:
    """What an act of theirs is multiplied by to be one of ours, in raw units, for each token."""
    normalize, d_in = imported.sae.config.normalize, x.shape[1]
    if normalize == "unit_norm":
        return x.norm(dim=1, keepdim=True) / d_in**0.5
    if normalize == "layer_norm_unbiased":
        return x.std(1, keepdim=True)
    return torch.ones(len(x), 1, dtype=x.dtype)


def test_every_golden_folder_is_tested() -> None:
    assert {name_of(folder) for folder in FOLDERS} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_acts_and_reconstruction_are_those_of_the_toolkit(name: str) -> None:
    imported, golden = read(name), load_file(FOLDER / name / "golden.safetensors")
    x = golden["x"]
    assert imported.sae.config.architecture == ARCHITECTURES[name]
    assert imported.sae.dtype == x.dtype
    out = imported.sae(x)
    tolerance = 1e-12 if x.dtype == torch.float64 else 2e-6
    if imported.sae.config.normalize == "unit_norm":
        tolerance = 1e-6  # what is added to a norm, so that 0 can be divided by it
    wanted = golden["acts"] * units(imported, x)
    torch.testing.assert_close(out.acts.dense(), wanted, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(out.sae_out, golden["sae_out"], rtol=tolerance, atol=tolerance)
    assert torch.equal(out.acts.dense() > 0, golden["acts"] > 0)


PLACES = {
    "sae_lens/standard": ("google/gemma-2-2b", "model.layers.20", "output", 21),
    "sae_lens_5/standard": ("openai-community/gpt2", "transformer.h.5", "input", 5),
    "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71": (
        *("google/gemma-2-2b", "model.layers.20", "output", 21),
    ),
    "gemma-scope-2-1b-pt/resid_post/layer_13_width_16k_l0_medium": (
        *("google/gemma-3-1b-pt", "model.layers.13", "output", 14),
    ),
    "dictionary_learning/topk": ("google/gemma-2-2b", "model.layers.12", "output", 13),
    "sparsify/layers.10": ("HuggingFaceTB/SmolLM2-135M", "layers.10", "output", 11),
    "openai/resid_post_mlp_v5_32k/topk": (
        *("openai-community/gpt2", "transformer.h.6", "output", 7),
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_model_and_place_are_told_where_the_format_tells_them(name: str) -> None:
    path = FOLDER / name
    found = read_foreign(path / "6.pt" if "openai" in name else path, allow_pickle=True).config
    assert found.model is not None and found.hookpoint is not None
    place = found.hookpoint
    assert (found.model.id, place.path, place.side, place.hidden_states) == PLACES[name]
    after = "post" if place.side == "output" else "pre"
    assert place.transformer_lens == f"blocks.{place.path.split('.')[-1]}.hook_resid_{after}"


@pytest.mark.parametrize(
    ("where", "place"),
    [
        (
            "google/gemma-scope-9b-it-mlp/layer_3/width_16k/x",
            "model.layers.3.post_feedforward_layernorm",
        ),
        (
            "google/gemma-scope-2b-pt-att/layer_3/width_16k/x",
            "model.layers.3.self_attn.o_proj.input",
        ),
        ("google/gemma-scope-2b-pt-res/embedding/width_4k/x", "model.embed_tokens.weight"),
        (
            "google/gemma-scope-2-4b-it/mlp_out_all/layer_7_width_16k",
            "model.layers.7.post_feedforward_layernorm",
        ),
        (
            "google/gemma-scope-2-4b-it/attn_out/layer_7_width_16k",
            "model.layers.7.self_attn.o_proj.input",
        ),
        ("me/mine/one", None),
    ],
)
def test_gemma_scope_tells_its_place_by_its_path_alone(
    where: str, place: str | None, tmp_path: Path
) -> None:
    kind = "gemma-scope-2-1b" if "gemma-scope-2-" in where else "gemma-scope-2b"
    source = FOLDER / next(name for name in ARCHITECTURES if kind in name)
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").unlink(missing_ok=True)
    found = read_foreign(tmp_path, where=where).config
    told = found.hookpoint
    assert (told and told.path + f".{told.side}".removesuffix(".output")) == place
    assert found.imported is not None
    assert (found.model is None) == any("not" in n and "path" in n for n in found.imported.notes)


def test_contexts_are_told_by_sae_lens_alone() -> None:
    tokens = read("sae_lens/topk").config.tokens
    assert tokens is not None
    assert (tokens.context_length, tokens.bos, tokens.skip_special) == (128, True, True)
    for name in ("sparsify/layers.10", "dictionary_learning/topk"):
        assert read(name).config.tokens is None


def test_what_was_changed_and_what_is_not_told_is_said() -> None:
    def notes(name: str) -> str:
        imported = read(name).config.imported
        assert imported is not None
        return "\n".join(imported.notes)

    assert "norms of decoder rows are folded" in notes("sae_lens/topk_rescaled")
    assert "decoder rows have norms from" in notes("sae_lens/topk")
    assert "acts are in raw units" in notes("sae_lens/jumprelu_norm")
    assert "layer's number only" in notes("dictionary_learning/topk")
    assert "lambda_l0 is written as 0" in notes(next(n for n in ARCHITECTURES if "scope-2b" in n))


def test_matryoshka_widths_are_told_as_cumulative_ones() -> None:
    assert read("sae_lens/matryoshka").sae.config.prefixes == (4, 10, 16)
    assert read("dictionary_learning/matryoshka").sae.config.prefixes == (4, 8, 16)


def test_where_it_came_from_is_recorded_with_the_hash_of_every_file() -> None:
    imported: Any = read("sae_lens/topk").config.imported
    assert imported.format == "sae-lens" and imported.source == "interop/sae_lens/topk"
    assert set(imported.files) == {"cfg.json", "sae_weights.safetensors"}


def test_negative_thresholds_let_through_what_relu_does(tmp_path: Path) -> None:
    name = next(n for n in ARCHITECTURES if "scope-2b" in n)
    arrays = dict(np.load(FOLDER / name / "params.npz"))
    arrays["threshold"] = -arrays["threshold"]
    np.savez(tmp_path / "params.npz", **arrays)
    x = load_file(FOLDER / name / "golden.safetensors")["x"]
    pre = x.numpy() @ arrays["W_enc"] + arrays["b_enc"]
    assert ((arrays["threshold"] < pre) & (pre < 0)).any()
    acts = read_foreign(tmp_path).sae.encode(x).dense().numpy()
    np.testing.assert_allclose(acts, np.maximum(pre, 0), rtol=1e-5, atol=1e-5)


def contents(path: Path) -> Any:
    """What a file holds, whatever the order it is written in."""
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    return torch.load(path, weights_only=True)


def test_the_golden_files_are_what_the_toolkits_write_today(tmp_path: Path) -> None:
    python = os.environ.get("HSAE_PEERS_PYTHON")
    if not python:
        pytest.skip("HSAE_PEERS_PYTHON names no Python that has the peers (make peers)")
    script = [python, Path(__file__).parent / "peers" / "make_interop.py", tmp_path]
    subprocess.run(script, check=True, capture_output=True)
    paths = {path.relative_to(FOLDER) for path in FOLDER.rglob("*") if path.is_file()}
    assert paths == {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    for path in sorted(paths):
        committed, made = contents(FOLDER / path), contents(tmp_path / path)
        assert committed.keys() == made.keys(), path
        for name, value in committed.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(made[name], value, rtol=1e-5, atol=1e-6)
            else:
                assert made[name] == value, (path, name)
