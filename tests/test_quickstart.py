"""`hsae quickstart`, whole: its own recipe on the embedded model, only shorter."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsae_hub.architectures.hsae import HSAE
from hsae_hub.cli import main, quickstart
from hsae_hub.hub import load

SHORT = """\
extends: gemma2-tiny-en/l3_hsae
data:
  train: [{builtin: python-docs}]
train: {steps: 300, checkpoint_every: 300}
eval: {tokens: 4000}
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "short.yaml").write_text(SHORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "RECIPE", str(folder / "short.yaml"))
        patch.setenv("HSAE_HOME", str(folder / "elsewhere"))
        assert main.run(["quickstart", "--out", str(folder / "out")]) == 0
        yield folder / "out"


def test_the_tree_comes_out_ahead_of_the_flat_sae_as_its_paper_says(out: Path) -> None:
    report = json.loads((out / "run" / "eval" / "core.json").read_text())
    tree, flat = report["saes"]["sae"], report["saes"]["baseline"]
    assert tree["l0_parents"] <= 8 == flat["l0"]
    assert tree["explained_variance"] > flat["explained_variance"] > 0.6
    assert tree["kl"] < flat["kl"] < 1


def test_what_was_published_came_back_from_the_folder_hub(out: Path) -> None:
    assert (out / "hub" / "you" / "hsae-tiny").is_dir()
    cached = next((out / "home").rglob("sae.safetensors"))
    assert cached.read_bytes() == (out / "run" / "sae.safetensors").read_bytes()
    assert isinstance(load(out / "run"), HSAE)
    assert "# hsae-tiny" in next((out / "home").rglob("README.md")).read_text()


def test_a_second_run_starts_at_once_and_ends_with_what_to_type_next(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (out / "run" / "sae.safetensors").stat().st_mtime_ns
    assert main.run(["quickstart", "--out", str(out)]) == 0
    told, talk = capsys.readouterr()
    assert (out / "run" / "sae.safetensors").stat().st_mtime_ns == before
    assert "finished already" in talk and talk.count("\n$ hsae ") == 9
    commands = told.strip().splitlines()[-3:]
    assert all(line.startswith("hsae ") for line in commands) and "gemma-2-2b" in commands[-1]
    for shown in ("ce_score", "was here already", "└─", "with ", "as it is:"):
        assert shown in told or shown in talk, shown
