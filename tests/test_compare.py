"""Two SAEs on one token: which features say the same."""

import json
from pathlib import Path
from typing import Any

import attach_oracle as oracle
import pytest
import torch
from test_render import check

from hsae_hub.architectures import SAE, build
from hsae_hub.artifact import read_artifact, save_sae
from hsae_hub.attach import Attached, attach
from hsae_hub.cli.main import run
from hsae_hub.errors import MisfitError, UsageError
from hsae_hub.features.comparing import ALIKE, Comparison, compare_on
from hsae_hub.models import LanguageModel

pytest_plugins = ["feature_fixtures"]
TEXT = "The history of the town"


@pytest.fixture(scope="module")
def flat(sae: SAE[Any], tmp_path_factory: pytest.TempPathFactory) -> SAE[Any]:
    """A flat SAE whose first latents are the tree's own parents 0 to 31, and then their children 0."""
    made = build({"architecture": "topk", "d_in": 256, "d_sae": 96, "k": 8}, seed=1)
    with torch.no_grad():
        for i in range(32):
            for latent, name in ((i, f"{i}"), (32 + i, f"{i}/0")):
                row = oracle.row_of(sae, name)
                made.W_dec[latent] = row / row.norm()
                made.W_enc[:, latent] = made.W_dec[latent]
    folder = tmp_path_factory.mktemp("flat")
    known = sae.info.config
    save_sae(made, folder, model=known.model, hookpoint=known.hookpoint)
    return read_artifact(folder).sae


@pytest.fixture(scope="module")
def both(sae: SAE[Any], flat: SAE[Any], model: LanguageModel) -> tuple[Attached, Attached]:
    return attach(flat, model), attach(sae, model)


@pytest.fixture(scope="module")
def found(both: tuple[Attached, Attached]) -> Comparison:
    return compare_on(*both, TEXT, top=4, labels=({"0": "<b>zero</b>"}, {}))


def test_rows_are_matched_by_decoder_cosine(
    found: Comparison, both: tuple[Attached, Attached]
) -> None:
    flat, tree = (each.decompose(TEXT).tokens[-1] for each in both)
    acting = (
        [f.id for f in flat.features],
        [f.id for p in tree.features for f in (p, p.child) if f is not None and f.act],
    )
    rows = [
        torch.stack([oracle.row_of(b.sae, name) for name in names])
        for b, names in zip(both, acting, strict=True)
    ]
    cosines = torch.cosine_similarity(rows[0][:, None], rows[1][None], dim=-1)
    expected = {}
    while cosines.max() >= ALIKE:
        a, b = divmod(int(cosines.argmax()), cosines.shape[1])
        expected[acting[0][a]] = (acting[1][b], float(cosines[a, b]))
        cosines[a], cosines[:, b] = -2, -2
    assert expected and any(cosine > 0.999 for _, cosine in expected.values())
    there = {name: (match.feature, match.cosine) for name, match in found.first.matches.items()}
    assert {k: v[0] for k, v in there.items()} == {k: v[0] for k, v in expected.items()}
    assert [v[1] for v in there.values()] == pytest.approx(
        [v[1] for v in expected.values()], abs=1e-5
    )
    back = {match.feature: name for name, match in found.second.matches.items()}
    assert back == {k: v[0] for k, v in expected.items()}


def test_both_are_drawn(found: Comparison) -> None:
    assert len(found.first.token.features) <= 4
    text = found.to_text(80)
    assert text.count("unexplained") == 2 and "children" in text and "–" in text
    assert max(map(len, text.splitlines())) <= 80
    for piece in (*found.pieces(), found._repr_html_()):
        check(piece)
    assert found.to_html().count('class="hsae-tree"') == 2
    json.dumps(found.to_dict())


def test_what_cannot_be_compared(both: tuple[Attached, Attached], model: LanguageModel) -> None:
    for token, error in ((99, "tokens 0 to"), (0, "special")):
        with pytest.raises(UsageError, match=error):
            compare_on(*both, TEXT, token=token)
    other = attach(build(oracle.TOPK, seed=0), model, hookpoint="model.layers.1")
    with pytest.raises(MisfitError, match="not at one place"):
        compare_on(both[0], other, TEXT)


def test_command(sae: SAE[Any], flat: SAE[Any], tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "compare.html"
    refs = [flat.info.ref, sae.info.ref]
    assert run(["compare", *refs, TEXT, "--json", "--device", "cpu", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "hsae.compare/1" and found["first"]["token"]["text"].strip() == "town"
    assert page.read_text().count('hsae-tree"') == 2 and "<script" not in page.read_text()
    assert run(["compare", *refs, TEXT, "--token", "x"]) == 2
