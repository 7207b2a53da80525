"""The core report against formulas on the embedded model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hsae_hub.architectures import SAE, TreeShape, build
from hsae_hub.artifact import (
    CORE_REPORT,
    HookpointConfig,
    ModelConfig,
    TokensConfig,
    config_of,
    read_artifact,
    save_sae,
    weights_sha256,
)
from hsae_hub.attach import Losses, SpliceReport
from hsae_hub.attach.losses import Reconstruction
from hsae_hub.errors import UsageError
from hsae_hub.evaluation import Bench, CoreReport, evaluate, measure_core
from hsae_hub.evaluation.core import as_data
from hsae_hub.evaluation.sums import ActivationSums, CoreSums, SAESums
from hsae_hub.hub import load
from hsae_hub.interop import EXPORTS
from hsae_hub.models import load_language_model
from hsae_hub.recipes import DataConfig, DataSource

TEXTS = [
    "The queen asked her corgi to wait by the gate.",
    "Water boils at a lower temperature on a mountain, because the air is thinner there.",
    "In 1905 a clerk in Bern published four papers.",
]


def saved(folder: Path, *, layer: int = 3, **config: object) -> SAE:
    sae = build({"d_in": 256, "normalize": "unit_norm", **config}, seed=0)
    save_sae(
        sae,
        folder,
        model=ModelConfig(id="gemma2-tiny-en"),
        hookpoint=HookpointConfig(path=f"model.layers.{layer}"),
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
    assert path == tmp_path / CORE_REPORT
    written = json.loads(path.read_text())
    assert written["schema"] == "hsae.eval.core/1" and written["command"] == "hsae eval x"
    assert set(written["saes"]) == {"sae", "baseline"}


def test_only_held_out_text_of_a_recipe_is_measured(tmp_path: Path) -> None:
    sae = tree(tmp_path)
    data = DataConfig(train=[DataSource(lines=["trained on"])], heldout=[DataSource(lines=TEXTS)])
    assert evaluate(sae, data).saes == evaluate(sae, TEXTS).saes
    with pytest.raises(UsageError, match="no text is held out"):
        evaluate(sae, DataConfig(train=[DataSource(lines=["one line"])], heldout_fraction=1e-9))


def dense_rows(sae: SAE) -> tuple[np.ndarray, list[int], np.ndarray, np.ndarray]:
    """Activations, tokens a text, reconstructions, and those of the parents alone, in float64."""
    lm = load_language_model()
    states = []
    for text in TEXTS:
        enc = lm.tokenizer(text, return_tensors="pt")
        states.append(lm.hf(**enc, output_hidden_states=True).hidden_states[4][0, 1:].detach())
    x = torch.cat(states)
    acts = sae.encode(x)
    parents = sae.decode(acts.keep(acts.indices < sae.shape.n_parents))
    found = [each.double().numpy() for each in (x, sae.decode(acts), parents)]
    return found[0], [len(each) for each in states], found[1], found[2]


def test_levels_scores_and_densities_agree_with_numpy(tmp_path: Path) -> None:
    sae = tree(tmp_path)
    report = evaluate(sae, TEXTS, tokens=10**6)
    found = {each.name: each for each in report.results}
    x, _, x_hat, parents = dense_rows(sae)
    variance = ((x - x.mean(0)) ** 2).sum()
    ev, high = 1 - ((x - x_hat) ** 2).sum() / variance, 1 - ((x - parents) ** 2).sum() / variance
    assert found["explained_variance_parents"].value == pytest.approx(high, abs=1e-5)
    assert found["explained_variance_children"].value == pytest.approx(ev - high, abs=1e-5)
    score = 1 - found["kl"].value / found["kl_zero"].value
    assert found["kl_score"].value == pytest.approx(score)
    assert report.results == evaluate(sae, TEXTS, tokens=10**6).results
    for name in ("explained_variance", "ce_spliced", "kl", "mse", "cosine"):
        assert found[name].low < found[name].value < found[name].high, name
        assert found[name].value == report.saes["sae"][name]
    dense = sae.encode(torch.tensor(x).float()).dense().numpy()
    density = report.details["density"]
    for level, part in (("parents", dense[:, :96]), ("children", dense[:, 96:]), ("all", dense)):
        shares = (part != 0).mean(0)
        assert density[level]["dead"] == (shares == 0).sum()
        counts, _ = np.histogram(np.log10(shares[shares > 0]), density[level]["log10_density"])
        assert density[level]["latents"] == counts.tolist()
    assert found["active_latents"].value == (dense.mean(0) > 1e-4).sum()


def test_saebench_s_explained_variance_is_not_one_can_pass_one_and_is_reported_apart() -> None:
    rng = np.random.default_rng(0)
    x, x_hat = rng.normal(0, 8, (500, 8)), np.zeros((500, 8))
    context = torch.arange(500) // 50
    of_x, of_sae = ActivationSums(10, 8), SAESums(10, TreeShape(4, 0))
    of_x.update(torch.tensor(x), context)
    of_sae.by_context["error"].index_add_(0, context, torch.tensor((x**2).sum(1)))
    ones = torch.ones(10, dtype=torch.float64)
    only = {"": Reconstruction(0.0, 0.0, None, None)}
    report = SpliceReport(500, 490, 10, 1.0, 1.0, 3.0, 1.0, 1.0, 1.0, {}, only)
    names = ("predictions", "clean", "zero", "mean", "spliced", "kl", "kl_zero")
    sums = dict(zip(names, (ones, ones, ones * 3, ones, ones, ones, ones * 2), strict=True))
    table = CoreSums(of_x, of_sae, Losses(report, sums))
    numbers = {
        name: float(value[0])
        for name, value in table.numbers(table.rows.sum(0, keepdims=True)).items()
    }
    m2 = (x**2).sum(1).mean()
    theirs = 1 - ((x - x_hat) ** 2).sum(1).mean() / (m2 - (m2 / 8) ** 2)
    assert numbers["explained_variance_saebench"] == pytest.approx(theirs) and theirs > 1
    assert numbers["explained_variance"] == pytest.approx(1 - (x**2).sum() / (500 * x.var(0).sum()))
    assert numbers["explained_variance"] < 0.001, "zeros are no better than the mean"
    assert numbers["kl_score"] == 0.5


def test_finished_parts_are_kept_and_are_never_stale(tmp_path: Path) -> None:
    data, tokens = as_data(TEXTS, tree(tmp_path / "a")), 10**6

    def measured(sae: SAE, **options: Any) -> tuple[CoreReport, list[str]]:
        said: list[str] = []
        bench = Bench(
            sae, folder=tmp_path, on_progress=lambda what, *_: said.append(what), **options
        )
        return measure_core(bench, data, tokens=tokens), said

    sae = tree(tmp_path / "a")
    first, said = measured(sae)
    again, nothing = measured(sae)
    assert said and not nothing and again == first
    assert measured(sae, seed=1)[1], "another seed draws other samples"
    flat = saved(tmp_path / "flat", architecture="topk", d_sae=96, k=6)
    both, _ = measured(sae, beside={"baseline": flat})
    assert both.results == first.results and both.by_sae()["baseline"] != first.results
    changed = build({**sae.config.model_dump(), "k": 5}, seed=0)
    save_sae(
        changed,
        tmp_path / "a",
        model=ModelConfig(id="gemma2-tiny-en"),
        hookpoint=HookpointConfig(path="model.layers.3"),
        tokens=TokensConfig(context_length=64),
    )
    other, said = measured(read_artifact(tmp_path / "a").sae)
    before = sae.W_dec.detach().clone()
    with torch.no_grad():
        sae.W_dec.mul_(1.5)
    assert measured(sae)[1], "weights that are no longer those of their file"
    with torch.no_grad():
        sae.W_dec.copy_(before)
    assert said and other.results != first.results
    for part in (tmp_path / "eval" / "parts").glob("core-*.json"):
        part.write_text("{")
    assert measured(sae)[0] == first, "a part that was cut off is measured again"


def test_a_report_of_the_first_release_is_read() -> None:
    old = {
        "schema": "hsae.eval.core/1",
        "command": "hsae eval run",
        "tokens": 5,
        "contexts": 1,
        "data": [],
        "seed": 0,
        "model": {"id": "m", "revision": None},
        "hookpoint": "layers.3",
        "weights": {"sae": "ab", "baseline": "cd"},
        "saes": {"sae": {"l0": 3}, "baseline": {"l0": 4}},
    }
    report = CoreReport.model_validate(old)
    assert report.sha256 == "ab" and report.results[0].value == 3
    assert report.beside["baseline"].sha256 == "cd"


def test_an_sae_of_another_toolkit_is_measured_as_ours_is(tmp_path: Path) -> None:
    sae = saved(tmp_path, architecture="topk", d_sae=64, k=4, normalize="none")
    (tmp_path / "theirs").mkdir()
    EXPORTS["sae-lens"](sae, config_of(sae), tmp_path / "theirs")
    theirs = load(tmp_path / "theirs")
    assert weights_sha256(theirs) is None and weights_sha256(sae)
    ours, found = (
        evaluate(each, TEXTS, tokens=10**6, model="gemma2-tiny-en") for each in (sae, theirs)
    )
    assert found.saes == ours.saes and found.weights == {}


def test_saes_of_several_places_are_not_measured_beside_each_other(tmp_path: Path) -> None:
    one, other = (
        saved(tmp_path / str(layer), layer=layer, architecture="topk", d_sae=64, k=4)
        for layer in (2, 3)
    )
    with pytest.raises(UsageError, match="are not at one place of one model"):
        Bench(one, beside={"other": other})
