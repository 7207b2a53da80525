"""The parts of a card that only some runs have: other reports, a gallery, several SAEs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_world import FLAT, make_run
from test_card import EVIL, front, rows, section

from hsae_hub.card import CARD, Run, check_card, render_card, render_collection
from hsae_hub.cli.main import run as hsae


def weights_of(folder: Path) -> str:
    return str(
        json.loads((folder / "config.json").read_text())["files"]["sae.safetensors"]["sha256"]
    )


def write_report(folder: Path, name: str, results: list[Any], **more: Any) -> None:
    data = {
        "schema": f"hsae.eval.{name}/1",
        "command": f"hsae eval run --task {name}",
        "tokens": 5000,
        "seed": 3,
        "sha256": weights_of(folder),
        "model": {"id": "gemma2-tiny-en", "revision": None},
        "results": results,
    }
    (folder / "eval" / f"{name}.json").write_text(json.dumps(data | more))


def test_every_report_of_these_weights_is_shown_with_its_intervals(tmp_path: Path) -> None:
    make_run(tmp_path)
    before = render_card(tmp_path)
    assert "Absorption and splitting of features were not measured" in before
    results = [
        {"name": "mean_absorption", "value": 0.12, "low": 0.1, "high": 0.15, "unit": "share"},
        {"name": "letters", "value": 26, "low": None, "high": None, "unit": ""},
        {"name": "lost", "value": float("nan")},
        {"name": 3, "value": 1},
    ]
    flat = {"sha256": "0" * 64, "results": [{"name": "letters", "value": 25}]}
    write_report(tmp_path, "absorption", results, beside={"baseline": flat})
    write_report(tmp_path, "probing", [{"name": "f1", "value": 0.9}], sha256="0" * 64)
    card = render_card(tmp_path)
    told = section(card, "What was measured").split("### Absorption\n")[1]
    assert "On 5,000 tokens of gemma2-tiny-en, seed 3, with" in told
    assert "\nhsae eval run --task absorption\n" in told
    assert rows(told)["mean_absorption"] == ["0.12 (0.1 to 0.15)", "-", "share"]
    assert rows(told)["letters"][:2] == ["26", "25"]
    assert "lost" not in rows(told) and "Probing" not in card
    assert "Absorption and splitting of features were not measured" not in card
    assert check_card(card) == []


def test_the_core_report_may_have_the_form_of_the_others(tmp_path: Path) -> None:
    make_run(tmp_path)
    results = [{"name": "explained_variance", "value": 0.5, "low": 0.25, "high": 0.75}]
    write_report(tmp_path, "core", results, details={"contexts": 7})
    card = render_card(tmp_path)
    measured = section(card, "What was measured")
    assert "5,000 held-out tokens of gemma2-tiny-en in 7 contexts, seed 3" in measured
    assert rows(measured)["explained_variance"][0] == "0.5 (0.25 to 0.75)"
    (index,) = front(card)["model-index"]
    assert index["results"][0]["metrics"] == [
        {"type": "explained_variance", "name": "explained variance", "value": 0.5}
    ]


def test_the_core_report_may_have_both_forms(tmp_path: Path) -> None:
    make_run(tmp_path)
    results = [{"name": "explained_variance", "value": 0.8125, "low": 0.75, "high": 0.875}]
    numbers = {"sae": {"explained_variance": 0.8125, "l0": 5.5}, "baseline": {"l0": 4}}
    weights = {"sae": weights_of(tmp_path)}
    write_report(tmp_path, "core", results, saes=numbers, weights=weights, contexts=80)
    told = rows(section(render_card(tmp_path), "What was measured"))
    assert told["explained_variance"][:2] == ["0.8125 (0.75 to 0.875)", "-"]
    assert told["l0"][:2] == ["5.5", "4"]


def gallery(folder: Path, text: str, **more: Any) -> dict[str, Any]:
    child = {"feature": "5/3", "label": text, "share": 0.25, "examples": [text]}
    parent = {
        "feature": "5",
        "label": text,
        "density": 0.01,
        "examples": [text],
        "children": [child],
    }
    data = {"schema": "hsae.gallery/1", "tokens": 10_000, "data": text, "parents": [parent]}
    return data | {"sha256": weights_of(folder)} | more


def test_a_gallery_shows_parents_with_their_children(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert "\n## Features\n" not in render_card(tmp_path)
    path = tmp_path / "features" / "gallery.json"
    path.parent.mkdir()
    path.write_text(json.dumps(gallery(tmp_path, "dogs")))
    told = section(render_card(tmp_path), "Features")
    assert "From 10,000 tokens of dogs." in told
    assert "### 5: dogs\n" in told and "Acts on 1.00% of the tokens." in told
    assert rows(told)["5/3"] == ["dogs", "25.00%", "dogs"]
    for other in (
        gallery(tmp_path, "x", sha256="0" * 64),
        gallery(tmp_path, "x", schema="y/2"),
        [],
        {"schema": 1},
    ):
        path.write_text(json.dumps(other))
        assert "\n## Features\n" not in render_card(tmp_path)


def test_text_of_strangers_in_a_gallery_and_a_report_breaks_nothing(tmp_path: Path) -> None:
    make_run(tmp_path)
    plain = len(render_card(tmp_path).splitlines())
    (tmp_path / "features").mkdir()
    evil = gallery(tmp_path, EVIL * 40)
    (tmp_path / "features" / "gallery.json").write_text(json.dumps(evil))
    result = {"name": EVIL, "value": 1.0, "unit": EVIL}
    write_report(tmp_path, "probing", [result], command=EVIL, model={"id": EVIL}, seed=EVIL)
    card = render_card(tmp_path)
    assert "<script>" not in card.replace("\\<script\\>", "").split("```sh")[0]
    assert len(card.splitlines()) < plain + 40
    body = card.split("---\n", 2)[2]
    outside = "".join(part for n, part in enumerate(body.split("\n```")) if n % 2 == 0)
    assert "<script>" not in outside.replace("\\<script\\>", "")
    assert [line for line in outside.splitlines() if line.startswith("# ")] == [
        f"# {tmp_path.name}"
    ]
    assert front(card)["license"] == "unknown" and check_card(card) == []  # {{ is quoted


def test_the_card_of_a_collection_has_a_row_for_each(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    make_run(tmp_path / "a")
    make_run(tmp_path / "b", FLAT, seed=5, baseline=False)
    core = json.loads((tmp_path / "a" / "eval" / "core.json").read_text())
    core["saes"]["sae"]["its_own"] = 1.0  # an architecture may report what no other has
    (tmp_path / "a" / "eval" / "core.json").write_text(json.dumps(core))
    runs = {name: Run(tmp_path / name) for name in ("a", "b")}
    card = render_collection(runs, "sweep", repo="org/sweep", license="mit")
    assert check_card(card) == []
    assert "| a | model.layers.3 | hsae | 40 | 640 | 0 | 0.8125 | 5.5 | 0.95 | 3 |\n" in card
    assert "| b | model.layers.3 | topk | 32 | 640 | 5 |" in card
    assert rows(section(card, "Training"))["b"] == ["5"]  # they differ in their seed alone
    assert rows(section(card, "Training"))["steps"] == ["10"]
    assert 'hsae.load("org/sweep:a")' in card
    assert weights_of(tmp_path / "b") in section(card, "Files")
    data = ModelCard(card).data
    found = {(e.dataset_config, e.metric_type): e.metric_value for e in data.eval_results}
    assert found["a", "l0"] == found["b", "l0"] == 5.5 and len(found) == 8
    again = ModelCard.from_template(data, template_str="---\n{{ card_data }}\n---\n").data
    assert (
        again.to_dict() == data.to_dict() and again.to_dict()["model-index"][0]["name"] == "sweep"
    )


def test_the_card_of_a_folder_of_runs_is_written_kept_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "runs" / "a")
    assert hsae(["card", str(tmp_path / "runs"), "--license", "mit"]) == 0
    path = tmp_path / "runs" / CARD
    text = path.read_text()
    assert "license: mit" in text and 'hsae.load("./runs/a")' in text
    begin = "<!-- hsae:notes -->\n"
    path.write_text(text.replace(begin, f"{begin}Mine.\n"))
    assert hsae(["card", str(tmp_path / "runs")]) == 0
    assert "\nMine.\n" in path.read_text()
    assert hsae(["card", str(tmp_path / "runs"), "--check"]) == 0
    capsys.readouterr()
