"""Our SAEs in the formats of other toolkits: they come back as they were, and the toolkits' own code reads them."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hsae_hub.architectures import SAE, build
from hsae_hub.artifact import ArtifactConfig, HookpointConfig, ModelConfig, TokensConfig
from hsae_hub.errors import CorruptError, UsageError
from hsae_hub.interop import EXPORTS, read_foreign

HERE = Path(__file__).parent
D_IN, D_SAE, K = 8, 16, 3
L1 = {"architecture": "l1"}
TOPK = {"architecture": "topk", "k": K}
JUMPRELU = {"architecture": "jumprelu", "lambda_l0": 0.0}
GATED = {"architecture": "gated", "lambda_l1": 0.0}
BATCH_TOPK = {"architecture": "batch_topk", "k": K}
MATRYOSHKA = {"architecture": "matryoshka", "k": K, "prefixes": [4, 10, D_SAE]}
NO_PRE = {"pre_encoder_bias": False}


class Case(NamedTuple):
    config: dict[str, Any]
    format: str
    bitwise: bool = False
    """Whether the very weights come back."""


CASES = {
    "sae-lens_l1": Case(L1, "sae-lens", True),
    "sae-lens_l1_no_pre": Case(L1 | NO_PRE, "sae-lens", True),
    "sae-lens_l1_standardized": Case(L1 | {"normalize": "standardize"}, "sae-lens"),
    "sae-lens_l1_no_pre_standardized": Case(L1 | NO_PRE | {"normalize": "standardize"}, "sae-lens"),
    "sae-lens_topk": Case(TOPK, "sae-lens", True),
    "sae-lens_topk_unit": Case(TOPK | NO_PRE | {"normalize": "unit_norm"}, "sae-lens"),
    "sae-lens_topk_unbiased": Case(TOPK | {"bias": False}, "sae-lens"),
    "sae-lens_jumprelu": Case(JUMPRELU, "sae-lens", True),
    "sae-lens_jumprelu_mean": Case(JUMPRELU | {"normalize": "mean_norm"}, "sae-lens"),
    "sae-lens_gated": Case(GATED, "sae-lens", True),
    "sae-lens_gated_no_pre_white": Case(GATED | NO_PRE | {"whiten": True}, "sae-lens"),
    "sae-lens_batch_topk": Case(BATCH_TOPK, "sae-lens", True),
    "sae-lens_matryoshka": Case(MATRYOSHKA, "sae-lens", True),
    "sae-lens_matryoshka_layer": Case(
        MATRYOSHKA | {"normalize": "layer_norm_unbiased"}, "sae-lens"
    ),
    "sparsify_topk": Case(TOPK, "sparsify", True),
    "sparsify_topk_no_pre": Case(TOPK | NO_PRE, "sparsify"),
    "sparsify_topk_white": Case(TOPK | {"whiten": True, "normalize": "mean_norm"}, "sparsify"),
    "dictionary-learning_l1": Case(L1, "dictionary-learning", True),
    "dictionary-learning_l1_no_pre": Case(L1 | NO_PRE, "dictionary-learning", True),
    "dictionary-learning_topk": Case(TOPK, "dictionary-learning", True),
    "dictionary-learning_gated": Case(GATED, "dictionary-learning", True),
    "dictionary-learning_gated_no_pre": Case(GATED | NO_PRE, "dictionary-learning"),
    "dictionary-learning_jumprelu": Case(JUMPRELU, "dictionary-learning"),
    "dictionary-learning_jumprelu_no_pre": Case(JUMPRELU | NO_PRE, "dictionary-learning", True),
    "dictionary-learning_batch_topk": Case(BATCH_TOPK, "dictionary-learning", True),
    "dictionary-learning_matryoshka": Case(MATRYOSHKA, "dictionary-learning", True),
    "dictionary-learning_matryoshka_mean": Case(
        MATRYOSHKA | {"normalize": "mean_norm"}, "dictionary-learning"
    ),
}


def tokens() -> Tensor:
    return torch.randn(40, D_IN, generator=torch.Generator().manual_seed(3)) * 2 + 1


def made(config: dict[str, Any]) -> SAE[Any]:
    """An SAE in the middle of training: no bias is 0, decoder rows have all kinds of norms."""
    sizes = {"d_in": D_IN} | ({"d_sae": D_SAE} if "n_parents" not in config else {})
    sae, generator = build(config | sizes), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in sae.weights().items():
            if name.startswith("norm_"):
                continue
            drawn = torch.randn(weight.shape, generator=generator)
            uniform = config["architecture"] in ("batch_topk", "matryoshka")
            threshold = drawn[0].expand_as(drawn) if uniform and name == "threshold" else drawn
            weight.copy_(0.3 * threshold.abs() if name == "threshold" else 0.5 * drawn)
    sae.fit_normalization(tokens())
    return sae.requires_grad_(False)


def about(sae: SAE[Any]) -> ArtifactConfig:
    return ArtifactConfig(
        sae=sae.config,
        model=ModelConfig(id="google/gemma-2-2b"),
        hookpoint=HookpointConfig(
            path="model.layers.20", transformer_lens="blocks.20.hook_resid_post", hidden_states=21
        ),
        tokens=TokensConfig(context_length=64, bos=False),
        files={},
    )


def written(name: str, folder: Path) -> SAE[Any]:
    sae = made(CASES[name].config)
    EXPORTS[CASES[name].format](sae, about(sae), folder)
    return sae


def their_acts(sae: SAE[Any], x: Tensor) -> Tensor:
    """Acts in the units of toolkits that do not give them back the size of the token."""
    acts, normalize = sae.encode(x).dense(), sae.config.normalize
    if normalize == "unit_norm":
        return acts / x.norm(dim=1, keepdim=True) * D_IN**0.5
    return acts / x.std(1, keepdim=True) if normalize == "layer_norm_unbiased" else acts


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_read_as_the_same_sae(name: str, tmp_path: Path) -> None:
    sae, x = written(name, tmp_path), tokens()
    imported = read_foreign(tmp_path, allow_pickle=True)
    out, back = sae(x), imported.sae(x)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(back.acts.dense(), out.acts.dense(), **close)
    torch.testing.assert_close(back.sae_out, out.sae_out, **close)
    assert 0 < (out.acts.dense() > 0).float().mean() < 1
    assert imported.sae.config.architecture == sae.config.architecture
    if CASES[name].bitwise:
        for key, weight in sae.weights().items():
            assert torch.equal(imported.sae.weights()[key], weight), key


def test_the_names_of_model_and_place_and_the_contexts_come_back(tmp_path: Path) -> None:
    for name in ("sae-lens_topk", "dictionary-learning_topk"):
        sae = written(name, tmp_path / name)
        found = read_foreign(tmp_path / name, allow_pickle=True).config
        assert found.model == about(sae).model and found.hookpoint == about(sae).hookpoint
        if "lens" in name:
            assert found.tokens == TokensConfig(context_length=64, bos=False)


@pytest.mark.parametrize("name", ["sae-lens_gated", "sae-lens_matryoshka_layer"])
def test_sae_lens_finds_a_version_a_dtype_and_floats_alone(name: str, tmp_path: Path) -> None:
    written(name, tmp_path)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert int(cfg["metadata"]["sae_lens_version"].split(".")[0]) >= 6
    assert cfg["dtype"] == "float32" and cfg["architecture"] in ("gated", "jumprelu")
    with safe_open(tmp_path / "sae_weights.safetensors", framework="pt") as file:
        assert all(file.get_tensor(key).is_floating_point() for key in file.keys())


def test_an_sae_that_sae_lens_has_no_class_for_comes_back_whole(tmp_path: Path) -> None:
    tree = {"architecture": "hsae", "n_parents": 6, "n_children": 4, "d_subspace": 2, "k": 2}
    for config in (
        tree,
        L1 | {"normalize": "layer_norm"},
        L1 | {"normalize": "unit_norm", "whiten": True},
    ):
        sae, out = made(config), tmp_path / "-".join(map(str, config.values()))
        EXPORTS["sae-lens"](sae, about(sae), out)
        assert json.loads((out / "cfg.json").read_text())["architecture"] == "hsae_hub"
        imported = read_foreign(out)
        assert imported.sae.config == sae.config and imported.config.model == about(sae).model
        for key, weight in sae.weights().items():
            assert torch.equal(imported.sae.weights()[key], weight), key


def test_what_only_our_class_reads_is_checked_like_the_rest(tmp_path: Path) -> None:
    sae = made({"architecture": "hsae", "n_parents": 6, "n_children": 4, "d_subspace": 2, "k": 2})
    EXPORTS["sae-lens"](sae, None, tmp_path)
    cfg, weights = tmp_path / "cfg.json", tmp_path / "sae_weights.safetensors"
    good, text = load_file(weights), cfg.read_text()
    for change, message in (
        ({"W_up": good["W_up"] * torch.nan}, "W_up has 96 of 96 values that are not finite"),
        ({"W_up": torch.zeros(2, 3)}, r"W_up is torch.float32 of shape \[2, 3\], but its config"),
        ({"W_up": torch.zeros(6, 8, 2, dtype=torch.int64)}, "W_up is torch.int64"),
        ({"extra": torch.zeros(2)}, "tensor 'extra' is unknown"),
    ):
        save_file(good | change, weights)
        with pytest.raises(CorruptError, match=message):
            read_foreign(tmp_path)
    save_file(good, weights)
    for config, message in (
        (3, "hsae_hub is 3"),
        ({"architecture": "hsae", "x": 1}, "unknown key"),
    ):
        cfg.write_text(json.dumps(json.loads(text) | {"hsae_hub": config}))
        with pytest.raises(CorruptError, match=message):
            read_foreign(tmp_path)


@pytest.mark.parametrize("bias", [False, True])
def test_parents_alone_are_exact_where_k_does_not_bind(bias: bool, tmp_path: Path) -> None:
    tree = {"architecture": "hsae", "n_parents": 6, "n_children": 4, "d_subspace": 2, "bias": bias}
    for k in (6, 2):
        sae, x = made(tree | {"k": k}), tokens()
        EXPORTS["sae-lens-parents"](sae, about(sae), tmp_path / str(k))
        back = read_foreign(tmp_path / str(k)).sae.encode(x).dense()
        wanted = sae.encode(x).dense()[:, :6]
        free = (back > 0).sum(1) <= k
        torch.testing.assert_close(back[free], wanted[free], rtol=1e-5, atol=1e-5)
        assert free.any() and bool(free.all()) == (k == 6)
    with pytest.raises(UsageError, match="'topk' has no parents to export"):
        EXPORTS["sae-lens-parents"](made(TOPK), None, tmp_path / "flat")


@pytest.mark.parametrize("format", ["sparsify", "dictionary-learning"])
def test_what_a_format_cannot_hold_exactly_is_refused(format: str, tmp_path: Path) -> None:
    for config in (
        {"architecture": "hsae", "n_parents": 6, "n_children": 4, "d_subspace": 2, "k": 2},
        TOPK | {"normalize": "unit_norm"},
        TOPK | {"normalize": "layer_norm", "whiten": True},
    ):
        with pytest.raises(UsageError, match=r"normalize '(unit|layer)_norm'") as caught:
            EXPORTS[format](made(config), None, tmp_path / "out")
        assert caught.value.fix == "hsae export REF sae-lens DIR"
    assert not (tmp_path / "out").exists()


def test_the_toolkits_own_code_reads_what_we_wrote_exactly(tmp_path: Path) -> None:
    python = os.environ.get("HSAE_PEERS_PYTHON")
    if not python:
        pytest.skip("HSAE_PEERS_PYTHON names no Python that has the peers (make peers)")
    for name in CASES:
        sae, x = written(name, tmp_path / name), tokens()
        tensors = {"x": x, "acts": their_acts(sae, x), "sae_out": sae(x).sae_out}
        save_file(tensors, tmp_path / name / "expected.safetensors")
    script = [python, HERE / "peers" / "check_exports.py", tmp_path]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(CASES)
    for name, differences in found.items():
        assert max(differences.values()) < 1e-5, (name, differences)
