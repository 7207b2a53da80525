"""What a folder hub has to bear: writers at the same moment, and hands in its files."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hub_world import FLAT, REPO, FolderWorld, make_run

import hsae_hub
from hsae_hub.architectures import build
from hsae_hub.errors import (
    ConflictError,
    CorruptError,
    NotFoundError,
)
from hsae_hub.hub import Hub, load


def test_writers_at_the_same_moment_lose_or_win_whole(tmp_path: Path) -> None:
    world = FolderWorld(tmp_path)
    make_run(tmp_path / "run")
    world.hub().push(tmp_path / "run", REPO)
    outcomes: list[str] = []

    def write(number: int) -> None:
        place = world.hub().place()
        content = os.urandom(20_000)
        for _ in range(50):
            head = place.resolve(REPO, None)
            try:
                place.commit(REPO, {f"{number}.md": content}, [], message="m", parent=head)
            except ConflictError:
                outcomes.append("lost")
            else:
                outcomes.append("won")
                return

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("won") == 8 and world.commits() == 9
    assert {f"{n}.md" for n in range(8)} <= set(world.files())
    assert not list((tmp_path / "hub").rglob("*.partial"))
    assert world.hub("another").pull(REPO).commit == world.hub().place().resolve(REPO, None)


def test_a_folder_hub_that_was_tampered_with_is_noticed(tmp_path: Path) -> None:
    world = FolderWorld(tmp_path)
    make_run(tmp_path / "run")
    pushed = world.hub().push(tmp_path / "run", REPO)
    path = tmp_path / "hub" / REPO / "history" / "00000001" / "commit.json"
    text = path.read_text()
    path.write_text(text.replace("Publish", "Publisch"))
    with pytest.raises(NotFoundError, match="no revision"):  # a commit's id is its content's hash
        world.hub("another").pull(f"{REPO}@{pushed.commit}")
    path.write_text(text[:-20])
    with pytest.raises(CorruptError, match="damaged"):
        world.hub("another").pull(REPO)
    path.write_text(text)
    for stored in (tmp_path / "hub" / REPO / "objects").iterdir():
        stored.unlink()
    with pytest.raises(CorruptError, match="has lost the content"):
        world.hub("another").pull(REPO)
    with pytest.raises(CorruptError, match="has lost the content"):
        load(REPO, hub=world.hub("another"))


def test_build_is_what_load_gives_back(tmp_path: Path) -> None:
    sae = build(FLAT)
    hsae_hub.save_sae(sae, tmp_path / "bare")
    Hub(tmp_path / "hub", cache_dir=tmp_path).push(tmp_path / "bare", REPO)
    back = load(REPO, hub=Hub(tmp_path / "hub", cache_dir=tmp_path))
    assert back.config == sae.config and back.info.config.model is None
