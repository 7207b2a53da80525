"""pull, verify, rm and show on the command line: their flags, what they print, and their exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_world import REPO, FolderWorld, make_run, seed

from hsae_hub.cli.main import run


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderWorld:
    """A folder hub with one SAE of a width that the embedded model has."""
    torch.set_num_threads(1)
    world = FolderWorld(tmp_path)
    monkeypatch.setenv("HSAE_HUB", str(world.root))
    monkeypatch.setenv("HSAE_HOME", str(tmp_path / "home"))
    sizes = {"d_in": 256, "n_parents": 16, "n_children": 4, "d_subspace": 2, "k": 4}
    seed(world, tmp_path / "run", config={"architecture": "hsae", **sizes}, baseline=False)
    return world


class Said:
    """What a command answered."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        capsys.readouterr()
        self.code = run(list(words))
        self.out, self.err = capsys.readouterr()

    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.out))


def test_pull_plans_fetches_and_takes_from_the_cache(
    world: FolderWorld, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    offline = Said(capsys, "pull", REPO, "--offline", "--json")
    assert offline.code == 8 and offline.json()["error"]["kind"] == "network"
    plan = Said(capsys, "pull", REPO, "--dry-run")
    assert plan.code == 0 and "0 of them are here" in plan.out and "sae.safetensors" in plan.out
    data = Said(capsys, "pull", REPO, "--dry-run", "--json").json()
    assert data["dry_run"] and data["missing"] == data["files"] and data["missing_size"] > 10_000
    assert not list((tmp_path / "home").rglob("*.safetensors"))
    assert Said(capsys, "pull", REPO, "--dry-run", "--verify").code == 2
    first = Said(capsys, "pull", REPO)
    assert first.code == 0 and "checked" in first.err
    assert first.out.strip() == data["folder"] and Path(first.out.strip()).is_dir()
    again = Said(capsys, "pull", REPO, "--offline", "--verify", "--json")
    assert again.json()["up_to_date"] and again.json()["offline"] and again.err == ""
    copied = Said(capsys, "pull", REPO, "--out", str(tmp_path / "copy"), "-q")
    assert copied.out.strip() == str(tmp_path / "copy") and copied.err == ""
    full = Said(capsys, "pull", REPO, "--out", str(tmp_path / "copy"), "--json")
    assert full.code == 2 and full.json()["error"]["kind"] == "usage"


def test_verify_heals_nothing_and_pull_does(
    world: FolderWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(Said(capsys, "pull", REPO, "-q").out.strip())
    weights = folder / "sae.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + b"!")
    found = Said(capsys, "verify", REPO)
    assert found.code == 9 and "WRONG" in found.out and f"hsae pull {REPO} --verify" in found.err
    told = Said(capsys, "verify", REPO, "--json").json()["error"]
    assert told["kind"] == "check_failed" and told["report"]["passed"] is False
    assert told["report"]["checks"][0]["name"] == "files"
    assert Said(capsys, "pull", REPO, "--verify").code == 0 and weights.read_bytes() == good


@pytest.mark.filterwarnings("ignore:.* explains .* of the variance")  # attaching says so too
def test_verify_measures_what_is_claimed(
    world: FolderWorld, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("--tokens", "300", "--device", "cpu", "--no-progress")
    found = Said(
        capsys, "verify", REPO, *words
    )  # untrained weights, and a report that praises them
    assert found.code == 9, found.err
    assert re.search(r"explained_variance +WRONG +measured -?\d+\.\d+, claimed 0\.8125", found.out)
    assert "is not what it is said to be" in found.err and "why:" in found.err
    own = found.out.split("measured ")[1].split(",")[0]
    core = tmp_path / "run" / "eval" / "core.json"
    data = json.loads(core.read_text())
    l0 = found.out.split("measured ")[2].split(",")[0]
    data["saes"]["sae"] |= {"explained_variance": float(own), "l0": float(l0)}
    core.write_text(json.dumps(data))
    right = Said(capsys, "verify", str(tmp_path / "run"), *words, "--json")
    assert right.code == 0, right.out
    assert {c["name"]: c["passed"] for c in right.json()["checks"]}["explained_variance"]


def test_verify_says_why_nothing_was_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from hsae_hub.architectures import build
    from hsae_hub.artifact import ModelConfig, save_sae

    flat = {"architecture": "topk", "d_in": 16, "d_sae": 32, "k": 4}
    save_sae(build(flat), tmp_path / "a")
    save_sae(build(flat), tmp_path / "b", model=ModelConfig(id="google/gemma-2-2b"))
    without = Said(capsys, "verify", str(tmp_path / "a"))
    assert without.code == 0 and "names no language model" in without.err
    elsewhere = Said(capsys, "verify", str(tmp_path / "b"))
    assert elsewhere.code == 0 and "--model google/gemma-2-2b fetches it" in elsewhere.err


def test_rm_asks_plans_and_removes(
    world: FolderWorld, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert Said(capsys, "rm", REPO, "--yes").code == 3
    folder = Path(Said(capsys, "pull", REPO, "-q").out.strip())
    asked = Said(capsys, "rm", REPO)
    assert asked.code == 2 and f"hsae rm {REPO} --yes" in asked.err and folder.is_dir()
    plan = Said(capsys, "rm", REPO, "--dry-run")
    assert plan.code == 0 and "would be freed" in plan.out and folder.is_dir()
    near = Said(capsys, "rm", "org/tinny", "--yes")
    assert near.code == 3 and "did you mean 'org/tiny'?" in near.err
    done = Said(capsys, "rm", REPO, "--yes", "--json")
    assert done.json()["removed"] and done.json()["size"] > 10_000 and not folder.exists()
    assert Said(capsys, "rm", REPO, "--yes", "--json").json()["error"]["kind"] == "not_found"
    make_run(tmp_path / "mine")
    assert Said(capsys, "rm", str(tmp_path / "mine"), "--yes").code == 2


def test_ls_says_where_an_sae_is_from(
    world: FolderWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = Said(capsys, "pull", REPO, "--json").json()["commit"]
    out = Said(capsys, "ls").out
    assert REPO in out and commit[:12] in out and "model.layers.3" in out
