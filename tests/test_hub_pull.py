"""A pull by itself: what it reads again, plans, takes from the cache; several at once, and one that is stopped."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hub_world import PUBLISHED, REPO, ServerWorld, World, left_over, seed

from hsae_hub.errors import CorruptError, NetworkError, NotFoundError
from hsae_hub.hub import Pulled, fetching

pytest_plugins = ("hub_fixtures",)
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's

FILES = PUBLISHED - {"README.md"}


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read to be compared with the hub's hashes."""
    names: list[str] = []
    real = fetching.same_content

    def same(path: Path, entry: fetching.Entry) -> bool:
        names.append(entry.path)
        return real(path, entry)

    monkeypatch.setattr(fetching, "same_content", same)
    return names


def test_what_was_checked_is_not_read_again(
    world: World, tmp_path: Path, hashed: list[str]
) -> None:
    seed(world, tmp_path / "run")
    hub = world.hub()
    folder = hub.pull(REPO).folder
    assert set(hashed) - {".gitattributes"} == FILES and len(hashed) == len(set(hashed))
    hashed.clear()
    assert hub.pull(REPO).up_to_date and hashed == []
    assert hub.pull(REPO, verify=True).up_to_date and len(hashed) >= len(FILES)
    hashed.clear()
    os.utime(folder / "sae.safetensors")
    assert hub.pull(REPO).up_to_date and hashed == ["sae.safetensors"]


def test_a_change_is_noticed_though_the_time_was_put_back(world: World, tmp_path: Path) -> None:
    seed(world, tmp_path / "run")
    path = world.hub().pull(REPO).folder / "sae.safetensors"
    good, at = path.read_bytes(), path.stat()
    path.chmod(0o644)
    path.write_bytes(good[:-1] + b"!")
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert path.stat().st_mtime_ns == at.st_mtime_ns
    pulled = world.hub().pull(REPO)
    assert not pulled.up_to_date and path.read_bytes() == good


def test_notes_that_are_damaged_are_no_notes(world: World, tmp_path: Path) -> None:
    commit = seed(world, tmp_path / "run")
    hub = world.hub()
    hub.pull(REPO)
    notes = hub.place().cache.repo(REPO) / "hsae"
    for text in ("{", "[]", '{"sae.safetensors": 3}', "\xff"):
        (notes / "stamps" / f"{commit}.json").write_text(text, encoding="latin-1")
        (notes / f"{commit}.json").write_text(text, encoding="latin-1")
        assert hub.pull(REPO).up_to_date


def test_a_plan_says_what_would_come_and_brings_nothing(world: World, tmp_path: Path) -> None:
    commit = seed(world, tmp_path / "run")
    hub = world.hub()
    plan = hub.plan_pull(REPO)
    assert plan.commit == commit and set(plan.missing) == set(plan.files) >= FILES
    assert plan.size == plan.missing_size >= sum(map(len, world.files().values()))
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not [path for path in kept if path.suffix == ".safetensors"]
    pulled = hub.pull(REPO)
    assert pulled.folder == plan.folder
    after = hub.plan_pull(REPO)
    assert after.missing == () and after.missing_size == 0 and after.files == pulled.files
    with pytest.raises(NotFoundError, match="no repository org/nothing"):
        hub.plan_pull("org/nothing")


def test_offline_nobody_is_asked(world: World, tmp_path: Path) -> None:
    commit = seed(world, tmp_path / "run")
    hub = world.hub()
    with pytest.raises(NetworkError, match=f"is not asked for {REPO}") as caught:
        hub.pull(REPO, offline=True)
    assert caught.value.code == 8 and f"the cache lacks {REPO}" in caught.value.why
    online = hub.pull(REPO)
    if isinstance(world, ServerWorld):
        world.server.requests.clear()
    for ref in (REPO, f"{REPO}@{commit}", f"{REPO}@main"):
        pulled = hub.pull(ref, offline=True)
        assert pulled == online._replace(up_to_date=True, offline=True)
    path = online.folder / "sae.safetensors"
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good[:-1] + b"!")
    with pytest.raises(CorruptError, match="sha256") as damaged:
        hub.pull(REPO, offline=True)
    assert "the copy here was damaged" in damaged.value.why and path.exists()
    path.unlink()
    with pytest.raises(NetworkError, match=r"lacks sae\.safetensors"):
        hub.pull(REPO, offline=True)
    if isinstance(world, ServerWorld):
        assert world.server.requests == []
    assert (hub.pull(REPO).folder / "sae.safetensors").read_bytes() == good


# the client keeps connections open, in 1.31 some for each thread
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_three_pulls_at_once_bring_it_once(world: World, tmp_path: Path) -> None:
    seed(world, tmp_path / "run")
    if isinstance(world, ServerWorld):
        world.server.fault("GET /cdn/", "delay", None, seconds=0.2)
    done: list[Pulled] = []
    threads = [
        threading.Thread(target=lambda: done.append(world.hub().pull(REPO))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({pulled.folder for pulled in done}) == 1 and len(done) == 3
    for name in FILES:
        assert (done[0].folder / name).read_bytes() == world.files()[name]
    assert left_over(tmp_path / "cache") == []
    if isinstance(world, ServerWorld):
        fetched = [r for r in world.server.requests if r.startswith("GET /cdn/")]
        assert len(fetched) == len([name for name in FILES if name.endswith(".safetensors")])


def test_who_stops_a_pull_leaves_whole_files_only(world: World, tmp_path: Path) -> None:
    seed(world, tmp_path / "run")

    def stop(done: int, total: int) -> None:
        if done > total - 2000:  # the weights are the last to come
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.hub().pull(REPO, on_progress=stop)
    assert left_over(tmp_path / "cache") == []
    pulled = world.hub().pull(REPO)
    for name in FILES:
        assert (pulled.folder / name).read_bytes() == world.files()[name]


def test_what_killed_downloads_have_left_is_removed(world: World, tmp_path: Path) -> None:
    commit = seed(world, tmp_path / "run")
    cache = world.hub().place().cache
    blobs, snapshot = cache.repo(REPO) / "blobs", cache.snapshot(REPO, commit)
    parts = [blobs / "a.0123abcd.incomplete", snapshot / ".b.partial"]
    for part in parts:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(b"half")
    fresh = blobs / "c.0123abcd.incomplete"
    fresh.write_bytes(b"somebody writes to it")
    for part in parts:
        os.utime(part, (time.time() - 3600,) * 2)
    world.hub().pull(REPO)
    assert not any(part.exists() for part in parts) and fresh.exists()
