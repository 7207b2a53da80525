"""The first use of an SAE: does it explain here what it explained when it was saved?"""

import json
import warnings
from pathlib import Path
from typing import Any

import attach_oracle as oracle
import pytest
import torch

from hsae_hub.architectures import SAE, build
from hsae_hub.artifact import WEIGHTS, ModelConfig, read_artifact, save_sae
from hsae_hub.attach import attach
from hsae_hub.attach.probing import PROBE, explained_on_probe
from hsae_hub.models import Hookpoint, LanguageModel, read_activations, tokenizer_sha256

PLACE = Hookpoint("layers.3")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.set_num_threads(1)
    return oracle.fresh_model()


def activations(model: LanguageModel, place: Hookpoint) -> torch.Tensor:
    found = []
    for text in PROBE:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        found.append(read_activations(model, place, ids, torch.ones_like(ids))[0, 1:])
    return torch.cat(found)


def fitted(
    model: LanguageModel, folder: Path, claimed: object, place: Hookpoint = PLACE
) -> SAE[Any]:
    """A PCA of the activations at layer 3, as an SAE whose latents come in pairs of either sign, and its report."""
    x = activations(model, PLACE)
    sae = build({"architecture": "topk", "d_in": 256, "d_sae": 96, "k": 40}, seed=0)
    axes = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:48]
    both = torch.cat([axes, -axes])
    with torch.no_grad():
        sae.W_enc.copy_(both.T)
        sae.W_dec.copy_(both)
        sae.b_enc.zero_()
        sae.b_dec.copy_(x.mean(0))
    save_sae(
        sae,
        folder,
        model=ModelConfig(id=model.id, tokenizer_sha256=tokenizer_sha256(model.tokenizer)),
        hookpoint=place.config(model),
    )
    config = json.loads((folder / "config.json").read_text())
    digest = config["files"][WEIGHTS]["sha256"]
    report = {"weights": {"sae": digest}, "saes": {"sae": {"explained_variance": claimed}}}
    (folder / "eval").mkdir()
    (folder / "eval" / "core.json").write_text(json.dumps(report))
    return read_artifact(folder).sae


def test_explained_variance_is_that_of_its_definition(model: LanguageModel, tmp_path: Path) -> None:
    sae = fitted(model, tmp_path, 0.9)
    x = activations(model, PLACE).double()
    left = (x - sae(x.float()).sae_out.double()).square().sum()
    wanted = 1 - left / (x - x.mean(0)).square().sum()
    assert wanted > 0.8
    assert explained_on_probe(sae, model, PLACE) == pytest.approx(float(wanted), abs=1e-6)


def test_where_it_fits_nothing_is_said(model: LanguageModel, tmp_path: Path) -> None:
    lm = attach(fitted(model, tmp_path, 0.95), model)
    assert lm.sae.info.explained_variance == 0.95
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm.decompose("Rain")


def test_the_layer_that_it_was_made_for_is_found(model: LanguageModel, tmp_path: Path) -> None:
    sae = fitted(model, tmp_path, 0.95, place=Hookpoint("layers.2"))
    lm = attach(sae, model)
    with pytest.warns(UserWarning, match=r"explains 0\.\d\d .* at layers\.2 .* but 0\.95") as told:
        with lm.splice():
            pass
    message = str(told[0].message)
    assert "the wrong layer or side (at layers.3 it explains 0." in message
    assert "normalize is none" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm.decompose("Rain")  # told once


def test_a_report_about_other_weights_or_none_says_nothing(
    model: LanguageModel, tmp_path: Path
) -> None:
    sae = fitted(model, tmp_path, 0.9)
    report = tmp_path / "eval" / "core.json"
    text = report.read_text()
    for changed in (
        text.replace(text[text.index('"sae": "') + 8 :][:64], "0" * 64),
        text.replace("0.9", '"much"'),
        "[1, 2",
        "{}",
    ):
        report.write_text(changed)
        assert read_artifact(tmp_path).sae.info.explained_variance is None
    report.unlink()
    again = read_artifact(tmp_path).sae
    assert again.info.explained_variance is None and sae.info.explained_variance == 0.9
