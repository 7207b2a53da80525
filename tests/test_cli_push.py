"""push and search as they are typed: what they print, and with which code they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_world import FLAT, REPO, FolderWorld, ServerWorld, make_run
from loopback import LoopbackHub

from hsae_hub.cli.main import run

pytest_plugins = ("hub_fixtures",)
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderWorld:
    monkeypatch.setenv("HSAE_HUB", str(tmp_path / "hub"))
    monkeypatch.setenv("HSAE_HOME", str(tmp_path / "home"))
    return FolderWorld(tmp_path)


def hsae(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    capsys.readouterr()
    got = run([str(word) for word in words])
    out, err = capsys.readouterr()
    assert got == code, err
    return out if code == 0 else out + err


def data(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    return dict(json.loads(hsae(capsys, *words, "--json")))


def test_a_sweep_is_pushed_found_and_pulled(
    world: FolderWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "runs" / "a", baseline=False)
    make_run(tmp_path / "runs" / "b", FLAT, seed=1, baseline=False)
    planned = hsae(capsys, "push", tmp_path / "runs", REPO, "--dry-run")
    assert f"{REPO} would be published (private" in planned and "org/tiny:a, org/tiny:b" in planned
    assert not (tmp_path / "hub").exists()
    pushed = data(capsys, "push", tmp_path / "runs", REPO, "--tag", "v1")
    assert pushed["saes"] == [f"{REPO}:a", f"{REPO}:b"] and pushed["changed"]
    assert set(pushed["plan"]) == {
        "add", "change", "remove", "same", "stays", "left_out", "size"
    }  # fmt: skip
    assert "was there already" in hsae(capsys, "push", tmp_path / "runs", REPO)
    path = Path(hsae(capsys, "pull", f"{REPO}@v1:b", "-q").strip())
    weights = tmp_path / "runs" / "b" / "sae.safetensors"
    assert (path / "sae.safetensors").read_bytes() == weights.read_bytes()
    told = hsae(capsys, "pull", REPO, code=3)
    assert "is a collection of 2 SAEs" in told and f"hsae pull {REPO}:a" in told

    assert hsae(capsys, "search", "topk", "--layer", "3", "-q") == f"{REPO}\n"
    (found,) = data(capsys, "search", "--model", "gemma2-tiny-en")["saes"]
    assert found["models"] == ["gemma2-tiny-en"] and found["layers"] == [3] and found["cached"]
    assert hsae(capsys, "search", "nothing") == ""
    assert "gemma2-tiny-en" in hsae(capsys, "ls", "--remote")
    hsae(capsys, "search", "--limit", "0", code=2)


def test_a_push_says_what_stays_and_prunes_when_told(
    world: FolderWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run")
    hsae(capsys, "push", tmp_path / "run", REPO, "--private")
    make_run(tmp_path / "other", seed=1, baseline=False)
    told = hsae(capsys, "push", tmp_path / "other", REPO, "--dry-run")
    assert "stays" in told and "baseline/sae.safetensors" in told and "--prune" in told
    pruned = data(capsys, "push", tmp_path / "other", REPO, "--prune")
    assert pruned["plan"]["remove"] == ["baseline/config.json", "baseline/sae.safetensors"]
    assert world.commits() == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["RUN", "org/taken", "--tag", "v1"], 10, "a tag never moves"),
        (["RUN", "org/open", "--private"], 2, "is public"),
        (["RUN", "org/new", "--public"], 2, "no licence is stated"),
        (["RUN", "org/taken", "--create-pr"], 2, "knows no pull requests"),
        (["RUN", "org/new", "--create-pr"], 3, "to propose anything to"),
        (["RUN", "org/taken@v1"], 2, "a push makes a new one"),
        (["RUN", "org/taken:a b"], 2, "cannot be the name of an SAE"),
        (["RUN", "org/taken:one"], 2, "holds a single SAE"),
        (["EMPTY", "org/new"], 3, "nor in a folder of it"),
        (["BAD", "org/new"], 9, "its metadata is not YAML: line"),
        (["HALF", "org/new"], 9, "is not filled in: [More Information Needed]"),
    ],
)
def test_what_is_refused_and_how(
    world: FolderWorld,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    make_run(tmp_path / "RUN", seed=1, baseline=False)
    for name, text in (("BAD", "---\n[\n---\n"), ("HALF", "---\nlibrary_name: hsae-hub\nlicense: mit\n"
                       "tags: [sparse-autoencoder, hsae]\n---\n[More Information Needed]\n")):  # fmt: skip
        make_run(tmp_path / name, baseline=False)
        (tmp_path / name / "README.md").write_text(text)
    (tmp_path / "EMPTY").mkdir()
    make_run(tmp_path / "old", baseline=False)
    world.hub().push(tmp_path / "old", "org/taken", tag="v1")
    world.hub().push(tmp_path / "old", "org/open", public=True, license="mit")
    before = sorted(str(path) for path in (tmp_path / "hub").rglob("*"))
    told = hsae(capsys, "push", tmp_path / words[0], *words[1:], code=code)
    assert message in told and "Traceback" not in told
    assert sorted(str(path) for path in (tmp_path / "hub").rglob("*")) == before


def test_a_dry_run_of_a_collection_asks_for_no_change(tmp_path: Path, server: LoopbackHub) -> None:
    world = ServerWorld(tmp_path, server)
    make_run(tmp_path / "runs" / "a", baseline=False)
    world.hub().push(tmp_path / "runs", REPO)
    make_run(tmp_path / "runs" / "b", seed=1, baseline=False)
    server.requests.clear()
    planned = world.hub().push(tmp_path / "runs", REPO, tag="v1", prune=True, dry_run=True)
    assert planned.plan.changes and not planned.changed
    assert {request.split()[0] for request in server.requests} <= {"GET", "HEAD"}


def test_words_by_hand_on_the_hub_become_notes(tmp_path: Path, server: LoopbackHub) -> None:
    world = ServerWorld(tmp_path, server)
    world.put({"README.md": b"---\nlicense: mit\n---\n\n# Ours\n\nMade by hand.\n"})
    make_run(tmp_path / "run", baseline=False)
    world.hub().push(tmp_path / "run", REPO)
    card = world.files()["README.md"].decode()
    assert "<!-- hsae:notes -->\n# Ours\n\nMade by hand.\n<!-- /hsae:notes -->" in card
    assert "license: mit" in card
    assert not world.hub().push(tmp_path / "run", REPO).changed
