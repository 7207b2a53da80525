"""A machine that cannot keep what arrives: no space, no right to write, no links; and locks that others hold."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from hub_world import REPO, ServerWorld, World, left_over, seed
from loopback import LoopbackHub

from hsae_hub.errors import ConflictError, CorruptError, DeniedError, ResourceError
from hsae_hub.hub import waiting
from hsae_hub.hub.cache import Cache

pytest_plugins = ("hub_fixtures",)

WEIGHTS = "sae.safetensors"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As on a full disk: files can have so many bytes, and not one more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Lets nobody write to a folder: by its mode, or, for root, by a read-only mount of it."""
    if os.geteuid() != 0:
        below = [folder, *(p for p in folder.rglob("*") if p.is_dir() and not p.is_symlink())]
        for path in below:
            path.chmod(0o555)
        try:
            yield
        finally:
            for path in below:
                path.chmod(0o755)
        return
    bind = ["mount", "--bind", "-o", "ro", str(folder), str(folder)]
    if subprocess.run(bind, capture_output=True).returncode:
        pytest.skip("root, and no right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_is_told_and_nothing_half_is_kept(
    world: World, tmp_path: Path, no_waiting: list[float]
) -> None:
    seed(world, tmp_path / "run")
    size = len(world.files()[WEIGHTS])
    with largest_file(size - 1), pytest.raises(ResourceError, match="no space left for") as caught:
        world.hub().pull(REPO)
    assert caught.value.code == 7 and "hsae rm" in caught.value.fix and no_waiting == []
    assert left_over(tmp_path / "cache") == []
    assert (world.hub().pull(REPO).folder / WEIGHTS).read_bytes() == world.files()[WEIGHTS]


def test_a_disk_that_is_too_small_is_told_before_anything_comes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(world, tmp_path / "run")
    monkeypatch.setattr(Cache, "free", lambda self: 1000)
    with pytest.raises(ResourceError, match=r"org/tiny needs .* has 0\.00 GB left"):
        world.hub().pull(REPO)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    monkeypatch.undo()


def test_a_cache_that_cannot_be_written_serves_what_it_has(world: World, tmp_path: Path) -> None:
    seed(world, tmp_path / "run")
    folder = world.hub().pull(REPO).folder
    second = seed(world, tmp_path / "other", seed=1)
    world.hub("empty").place().cache.root.mkdir(parents=True)
    with read_only(tmp_path / "cache"), read_only(tmp_path / "empty"):
        pulled = world.hub().pull(f"{REPO}@{folder.name}")
        assert pulled.up_to_date and pulled.folder == folder
        assert world.hub().pull(f"{REPO}@{folder.name}", verify=True).up_to_date
        for cache in ("cache", "empty"):
            with pytest.raises(DeniedError, match="cannot be written") as caught:
                world.hub(cache).pull(REPO)
            assert caught.value.code == 4 and "HF_HOME" in caught.value.fix
    assert world.hub().pull(REPO).commit == second


@pytest.fixture
def served(tmp_path: Path, server: LoopbackHub) -> ServerWorld:
    """A server that holds one SAE."""
    world = ServerWorld(tmp_path, server)
    seed(world, tmp_path / "run")
    return world


def test_without_links_a_wrong_byte_is_healed_as_well(
    served: ServerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download, "are_symlinks_supported", lambda cache_dir=None: False)
    served.server.fault("GET /cdn/", "corrupt")
    path = served.hub().pull(REPO).folder / WEIGHTS
    assert not path.is_symlink() and path.read_bytes() == served.files()[WEIGHTS]
    served.damage(WEIGHTS, lambda data: data[:-1] + b"!")
    path.unlink()
    with pytest.raises(CorruptError):
        served.hub().pull(REPO)
    assert not path.exists()


def lock_of(served: ServerWorld) -> tuple[Path, Path]:
    """The client's lock for the weights, and what its holder writes to."""
    at = served.server.repos[REPO]
    digest = at.commits[at.head][WEIGHTS].sha256
    cache = served.hub().place().cache
    lock = cache.root / ".locks" / cache.repo(REPO).name / f"{digest}.lock"
    part = cache.repo(REPO) / "blobs" / f"{digest}.0123abcd.incomplete"
    for path in (lock, part):
        path.parent.mkdir(parents=True, exist_ok=True)
    return lock, part


def test_who_holds_a_lock_and_does_nothing_is_not_waited_for(
    served: ServerWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "LOCK_LIMIT", 0.5)
    monkeypatch.setattr(waiting, "_TELL", 0.1)
    lock, _ = lock_of(served)
    with FileLock(lock), pytest.raises(ConflictError, match="another process holds") as caught:
        served.hub().pull(REPO)
    assert caught.value.code == 10 and str(lock) in caught.value.why
    assert "waiting for another process" in caplog.text
    assert lock.exists()  # a lock that nobody holds does not matter
    assert served.hub().pull(REPO).folder.is_dir()


def test_who_holds_a_lock_and_writes_is_waited_for(
    served: ServerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOCK_LIMIT", 1.0)
    lock, part = lock_of(served)
    holding = threading.Event()

    def write() -> None:
        with FileLock(lock):
            holding.set()
            for size in range(8):
                part.write_bytes(bytes(size))
                threading.Event().wait(0.25)
            part.unlink()

    writer = threading.Thread(target=write)
    writer.start()
    holding.wait()
    assert (served.hub().pull(REPO).folder / WEIGHTS).is_file()
    assert not writer.is_alive()
    writer.join()
