"""`hsae eval` over its tasks, on small data."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hsae_hub.architectures import build
from hsae_hub.artifact import HookpointConfig, ModelConfig, TokensConfig, save_sae
from hsae_hub.cli.main import run

SIZES: dict[str, Any] = {"d_in": 256, "normalize": "unit_norm"}
TREE = {**SIZES, "architecture": "hsae", "n_parents": 64, "n_children": 4, "d_subspace": 3, "k": 6}
FLAT = {**SIZES, "architecture": "topk", "d_sae": 64, "k": 6}


def saved(folder: Path, config: dict[str, Any], seed: int = 0) -> Path:
    save_sae(
        build(config, seed=seed),
        folder,
        model=ModelConfig(id="gemma2-tiny-en"),
        hookpoint=HookpointConfig(path="model.layers.0"),
        tokens=TokensConfig(context_length=64),
    )
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("eval")
    saved(folder / "tree", TREE)
    saved(folder / "flat", FLAT)
    topics = {"sea": "The ship sailed over the sea", "law": "The court heard the case"}
    rows = [
        {"text": f"{text} {i}", "label": label, "who": "ab"[i // 7 % 2]}
        for i in range(60)
        for label, text in topics.items()
    ]
    (folder / "topics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "en.txt").write_text("The town is old.\nThe river is wide.\nHe went home.\n")
    (folder / "de.txt").write_text("Die Stadt ist alt.\nDer Fluss ist breit.\nEr ging heim.\n")
    return folder


def succeed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert run(["eval", *args, "--no-progress"]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_every_task_leaves_a_report_and_a_plot(world, capsys, monkeypatch):
    monkeypatch.setattr("hsae_hub.evaluation.probes.EPOCHS", 2)
    tree = str(world / "tree")
    data = ["--probing", str(world / "topics.jsonl"), "--spurious", "who"]
    data += ["--parallel", str(world / "en.txt"), "--parallel", str(world / "de.txt")]
    tasks = "core,absorption,probing,scr,cross-lingual,tree"
    args = [tree, "--on", tasks, "--tokens", "300", "--words", "100", *data]
    args += ["--beside", str(world / "flat"), "--json"]
    reports = json.loads(succeed(capsys, *args))["reports"]
    assert list(reports) == tasks.split(",")
    for name, report in reports.items():
        written = json.loads((world / "tree" / "eval" / f"{name}.json").read_text())
        assert written == report and written["schema"] == f"hsae.eval.{name}/1"
        assert {"command", "tokens", "seed", "sha256", "results"} <= report.keys()
        assert report["command"].startswith("hsae eval tree --on core,absorption")
        assert str(world) not in json.dumps(report), "no path of this machine"
        assert (
            report["sha256"]
            == json.loads((world / "tree" / "config.json").read_text())["files"]["sae.safetensors"][
                "sha256"
            ]
        )
        for result in report["results"]:
            assert result.keys() == {"name", "value", "low", "high", "unit"}
            assert result["low"] is None or result["low"] <= result["value"] <= result["high"]
        assert (world / "tree" / "eval" / f"{name}.svg").read_text().startswith("<?xml")
        assert name == "tree" or list(report["beside"]) == ["flat"]
    names = {name: [r["name"] for r in report["results"]] for name, report in reports.items()}
    assert "sparse_probing_top_1_parents" in names["probing"]
    assert {"tpp_2", "tpp_100_parents"} < set(names["scr"])
    assert "cross_lingual_difference_children" in names["cross-lingual"]
    assert "child_entropy" in names["tree"] and "letters" in names["absorption"]
    assert "SAEBench asks for 20" in reports["absorption"]["details"]["note"]

    def never(*_: Any) -> None:
        raise AssertionError("what is done is done again")

    monkeypatch.setattr("hsae_hub.evaluation.reading.read_activations", never)
    assert json.loads(succeed(capsys, *args))["reports"] == reports


def test_the_table_has_intervals(world, capsys):
    pair = ["--parallel", str(world / "en.txt"), "--parallel", str(world / "de.txt")]
    out = succeed(capsys, str(world / "tree"), "--on", "cross-lingual", *pair)
    assert "3 sentences in en, de" in out and "cross_lingual_difference_parents" in out
    assert " to " in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--on", "all"], "--on names 'all'; expected some of core, absorption"),
        (["--on", "probing"], "--probing FILE.jsonl"),
        (["--on", "scr"], "--spurious COLUMN"),
        (["--on", "cross-lingual"], "--parallel en.txt"),
    ],
)
def test_what_a_task_lacks_is_told_in_a_line(world, capsys, args, message):
    capsys.readouterr()
    assert run(["eval", str(world / "tree"), *args]) == 2
    assert message in capsys.readouterr().err


def test_a_flat_sae_has_no_tree(world, capsys):
    assert run(["eval", str(world / "flat"), "--on", "tree"]) == 2
    assert "this SAE has none" in capsys.readouterr().err
