"""Looking at SAEs and listing them, on a folder and on a server for the real client."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_world import FLAT, PUBLISHED, REPO, World, make_run

from hsae_hub.errors import NotFoundError
from hsae_hub.hub import Hub, load

pytest_plugins = ("hub_fixtures",)
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's


def test_show_reads_no_weights(world: World, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    pushed = world.hub().push(tmp_path / "run", REPO)
    hub = world.hub("another")
    shown = hub.show(REPO)
    assert shown.commit == pushed.commit and shown.folder is None
    assert shown.config.sae.architecture == "hsae"
    assert {t.name: t.shape for t in shown.tensors}["W_enc"] == (16, 8)
    assert shown.core is not None and shown.core["tokens"] == 20_000
    assert shown.card is not None and shown.card.startswith("---\n")
    assert {entry.path for entry in shown.files} == PUBLISHED
    kept = hub.place().cache.snapshot(REPO, str(pushed.commit))
    assert not list(kept.rglob("*.safetensors"))
    hub.pull(REPO)
    here = hub.show(REPO)
    assert here.folder is not None and here.tensors == shown.tensors
    local = hub.show(here.folder)
    assert local.tensors == shown.tensors and local.commit is None
    with pytest.raises(NotFoundError):
        hub.show(f"{REPO}:nothing")


def test_ls_lists_what_is_here_and_what_is_there(world: World, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    hub = world.hub("another")
    assert hub.ls() == []
    world.hub().push(tmp_path / "run", REPO, tag="v1")
    make_run(tmp_path / "other", FLAT, seed=1)
    world.hub().push(tmp_path / "other", "org/flat")
    assert {row.info.repo: row.cached for row in hub.search()} == {
        REPO: False,
        "org/flat": False,
    }
    hub.pull(f"{REPO}@v1")
    hub.pull("org/flat")
    assert [(row.ref, row.config.sae.architecture) for row in hub.ls()] == [
        ("org/flat", "topk"),
        ("org/tiny@v1", "hsae"),
    ]
    assert all(load(row.ref, hub=hub).d_in == 16 for row in hub.ls())
    assert all(row.cached for row in hub.search())
    assert all(row.info.private for row in hub.search())


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_folder_that_is_no_hub_is_told_from_an_empty_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError, match="no hub in"):
        Hub(tmp_path / name).search()
    assert not Hub(tmp_path).search()
