"""The SAE inside the package: whole, with a card that tells the truth, and an index of its own weights."""

import json
import math
import os
from pathlib import Path

import pytest

from hsae_hub.artifact import WEIGHTS, read_artifact
from hsae_hub.assets import embedded_sae
from hsae_hub.attach import attach
from hsae_hub.cli.common import Output
from hsae_hub.cli.loading import find
from hsae_hub.cli.main import run
from hsae_hub.features import FeatureIndex, weights_digest
from hsae_hub.hub import load

DATA = Path(__file__).parent / "data" / "format_v1" / "hsae"
TEXT = "The king and his army marched to the river."


def test_it_is_what_its_config_says() -> None:
    found = read_artifact(embedded_sae())
    assert (found.sae.shape.n_parents, found.sae.shape.n_children) == (512, 16)
    assert load("tiny:baseline").shape.n_children == 0


def test_its_index_and_its_measurements_are_of_these_weights() -> None:
    sae = load("tiny")
    assert FeatureIndex.open(embedded_sae()).info["weights"] == weights_digest(sae)
    for task in ("absorption", "tree", "probing"):
        report = json.loads((embedded_sae() / "eval" / f"{task}.json").read_text("utf-8"))
        assert report["sha256"] == sae.info.config.files[WEIGHTS].sha256


def test_its_card_is_complete() -> None:
    assert run(["card", str(embedded_sae()), "--check"]) == 0


def test_losses_of_single_tokens_add_up_to_the_report() -> None:
    lm = attach(load("tiny"))
    with lm.splice() as spliced:
        report, tokens = spliced.loss([TEXT]), spliced.token_losses(TEXT)
    predicted = [each for each in tokens if each.clean is not None]
    assert len(predicted) == report.predictions == len(tokens) - 2  # not BOS, nor from BOS
    for name, values in (
        ("ce_clean", [each.clean for each in predicted]),
        ("ce_spliced", [each.spliced for each in predicted]),
        ("kl", [each.kl for each in predicted]),
    ):
        assert math.fsum(values) / len(values) == pytest.approx(getattr(report, name), abs=1e-6)
    assert "".join(each.text for each in tokens[1:]).strip() == TEXT


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["index", "tiny"], "tiny is inside this package, where nothing is written beside it"),
        (["labels", "import", "tiny", "x.jsonl"], "tiny came with this package, and is not"),
    ],
)
def test_no_command_changes_it(words: list[str], told: str, capsys: pytest.CaptureFixture) -> None:
    assert run(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {told}")


def test_what_is_measured_of_it_is_not_kept_in_the_package() -> None:
    own = [find(ref, None, Output("x")).own for ref in ("tiny", "tiny:baseline", str(DATA))]
    assert own == [None, None, DATA]


def test_nothing_is_kept_in_a_folder_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert run(["index", str(DATA)]) == 2
    assert "in a folder that cannot be written, where nothing" in capsys.readouterr().err
