"""The core report against formulas on the embedded model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hsae_hub.architectures import SAE, build
from hsae_hub.artifact import HookpointConfig, ModelConfig, TokensConfig, read_artifact, save_sae
from hsae_hub.errors import UsageError
from hsae_hub.evaluation import CORE_FILE, evaluate
from hsae_hub.models import load_language_model
from hsae_hub.recipes import DataConfig, DataSource

TEXTS = [
    "The queen asked her corgi to wait by the gate.",
    "Water boils at a lower temperature on a mountain, because the air is thinner there.",
    "In 1905 a clerk in Bern published four papers.",
]


def saved(folder: Path, **config: object) -> SAE:
    sae = build({"d_in": 256, "normalize": "unit_norm", **config}, seed=0)
    save_sae(
        sae,
        folder,
        model=ModelConfig(id="gemma2-tiny-en"),
        hookpoint=HookpointConfig(path="model.layers.3"),
        tokens=TokensConfig(context_length=64),
    )
    return read_artifact(folder).sae


def tree(folder: Path) -> SAE:
    return saved(folder, architecture="hsae", n_parents=96, n_children=4, d_subspace=3, k=6)


def test_the_report_agrees_with_numpy_on_the_model_s_own_hidden_states(tmp_path: Path) -> None:
    sae = tree(tmp_path)
    report = evaluate(sae, TEXTS, tokens=10**6)
    lm = load_language_model()
    rows = []
    for text in TEXTS:
        enc = lm.tokenizer(text, return_tensors="pt")
        states = lm.hf(**enc, output_hidden_states=True).hidden_states[4][0, 1:]
        rows.append(states.detach())
    x = torch.cat(rows)
    x_hat = sae(x).sae_out.double().numpy()
    dense = sae.encode(x).dense().numpy()
    x = x.double().numpy()
    found = report.saes["sae"]
    error, variance = ((x - x_hat) ** 2).sum(), ((x - x.mean(0)) ** 2).sum()
    assert report.tokens == len(x) and report.contexts == 3
    assert found["explained_variance"] == pytest.approx(1 - error / variance, abs=1e-5)
    assert found["mse"] == pytest.approx(error / len(x), rel=1e-5)
    assert found["l0"] == pytest.approx((dense != 0).sum(1).mean())
    assert found["l0"] == pytest.approx(found["l0_parents"] + found["l0_children"])
    assert found["dead_latents"] == ((dense != 0).sum(0) == 0).sum()
    assert found["dead_parents"] == ((dense[:, :96] != 0).sum(0) == 0).sum()
    assert found["l0_sparsity"] == pytest.approx(100 * (dense == 0).mean())
    score = (found["ce_zero"] - found["ce_spliced"]) / (found["ce_zero"] - found["ce_clean"])
    assert found["ce_score"] == pytest.approx(score)
    assert np.isfinite(list(found.values())).all()


def test_a_baseline_is_measured_on_the_same_contexts(tmp_path: Path) -> None:
    flat = saved(tmp_path / "flat", architecture="topk", d_sae=96, k=6)
    report = evaluate(
        tree(tmp_path / "tree"), TEXTS, beside={"baseline": flat}, command="hsae eval x"
    )
    assert report.saes["sae"]["ce_clean"] == report.saes["baseline"]["ce_clean"]
    assert "l0_parents" not in report.saes["baseline"]
    path = report.save(tmp_path)
    assert path == tmp_path / CORE_FILE
    written = json.loads(path.read_text())
    assert written["schema"] == "hsae.eval.core/1" and written["command"] == "hsae eval x"
    assert set(written["saes"]) == {"sae", "baseline"}


def test_only_held_out_text_of_a_recipe_is_measured(tmp_path: Path) -> None:
    sae = tree(tmp_path)
    data = DataConfig(train=[DataSource(lines=["trained on"])], heldout=[DataSource(lines=TEXTS)])
    assert evaluate(sae, data).saes == evaluate(sae, TEXTS).saes
    with pytest.raises(UsageError, match="no text is held out"):
        evaluate(sae, DataConfig(train=[DataSource(lines=["one line"])], heldout_fraction=1e-9))
