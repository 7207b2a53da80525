"""What the client does not look at: it takes wrong bytes over both protocols, and over Xet hands them on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_world import REPO, ServerWorld, seed
from loopback import OWNER, LoopbackHub

from hsae_hub.errors import CorruptError, NetworkError
from hsae_hub.hub import faults

pytest_plugins = ("hub_fixtures",)

WEIGHTS = "sae.safetensors"
CONTENT = "GET /cdn/"
OTHER = "org/same"


@pytest.fixture(params=["lfs", "xet"])
def served(request: pytest.FixtureRequest, tmp_path: Path, server: LoopbackHub) -> ServerWorld:
    """A server with one SAE, and with the same under another name, for a client of either protocol."""
    if request.param == "xet":
        request.getfixturevalue("xet")
    world = ServerWorld(tmp_path, server)
    seed(world, tmp_path / "run", evaluated=False, baseline=False)
    seed(world, tmp_path / "run", OTHER, evaluated=False, baseline=False)
    return world


def spoiled(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def copies(world: ServerWorld, content: bytes, cache: str = "cache") -> list[Path]:
    """Files of a cache with that content, links left out."""
    files = (p for p in (world.tmp_path / cache).rglob("*") if p.is_file() and not p.is_symlink())
    return [path for path in files if path.read_bytes() == content]


def test_a_wrong_byte_that_stays_wrong_is_nowhere_afterwards(served: ServerWorld) -> None:
    good = served.files()[WEIGHTS]
    served.damage(WEIGHTS, spoiled)
    with pytest.raises(CorruptError, match=f"{WEIGHTS} of {REPO} has sha256") as caught:
        served.hub().pull(REPO)
    assert "twice" in caught.value.why
    assert copies(served, spoiled(good)) == []
    served.damage(WEIGHTS, lambda data: data)
    for repo in (OTHER, REPO):  # the same content, which was never handed over wrong
        assert (served.hub().pull(repo).folder / WEIGHTS).read_bytes() == good
    assert copies(served, spoiled(good)) == []


def test_what_another_tool_has_poisoned_is_not_taken_over(served: ServerWorld) -> None:
    from huggingface_hub import hf_hub_download

    good = served.files()[WEIGHTS]
    cache = served.tmp_path / "cache"
    served.server.fault(CONTENT, "corrupt")
    taken = hf_hub_download(REPO, WEIGHTS, cache_dir=cache, endpoint=served.server.url, token=OWNER)
    assert Path(taken).read_bytes() == spoiled(good)  # the client's own behaviour, 2.4 and 1.31
    for repo in (OTHER, REPO):
        assert (served.hub().pull(repo).folder / WEIGHTS).read_bytes() == good
    assert copies(served, spoiled(good)) == []


@pytest.mark.parametrize("kind", ["corrupt", "short", "truncate", "nolength", "break", "503"])
def test_a_content_that_fails_once_comes_the_second_time(
    served: ServerWorld, kind: str, no_waiting: list[float]
) -> None:
    served.server.fault(CONTENT, kind)
    pulled = served.hub().pull(REPO)
    assert (pulled.folder / WEIGHTS).read_bytes() == served.files()[WEIGHTS]
    assert not list(served.tmp_path.rglob("*.incomplete"))


@pytest.mark.parametrize("kind", ["short", "break"])
def test_a_content_that_always_fails_ends_soon_and_leaves_nothing(
    served: ServerWorld, kind: str, no_waiting: list[float]
) -> None:
    served.server.fault(CONTENT, kind, None)
    with pytest.raises((NetworkError, CorruptError), match=f"{REPO}") as caught:
        served.hub().pull(REPO)
    assert caught.value.code in (6, 8) and sum(no_waiting) < faults.WAIT_LIMIT + 60
    assert not list(served.tmp_path.rglob("*.incomplete"))
    assert not list((served.tmp_path / "cache").rglob(WEIGHTS))
    served.server.faults.clear()
    assert (served.hub().pull(REPO).folder / WEIGHTS).is_file()


def test_a_body_that_ends_early_is_gone_on_with_though_its_range_is_ignored(
    served: ServerWorld, no_waiting: list[float]
) -> None:
    served.server.fault(CONTENT, "truncate")
    served.server.fault(CONTENT, "norange", None)
    pulled = served.hub().pull(REPO)
    assert (pulled.folder / WEIGHTS).read_bytes() == served.files()[WEIGHTS]


def test_a_hub_that_falls_silent_is_asked_again(
    served: ServerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    if not constants.HF_HUB_DISABLE_XET:
        pytest.skip("hf_xet reads its own timeouts, of minutes, when it is loaded")
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    served.server.fault(CONTENT, "hang", seconds=20)
    pulled = served.hub().pull(REPO)
    assert (pulled.folder / WEIGHTS).read_bytes() == served.files()[WEIGHTS]


def test_tokens_go_to_the_hub_only(served: ServerWorld) -> None:
    served.hub().pull(REPO)
    elsewhere = [token for at, token in served.server.tokens if at.startswith("localhost")]
    assert not [token for token in elsewhere if OWNER in token]
    assert [at for at, token in served.server.tokens if OWNER in token]


@pytest.mark.parametrize("step", ["xet-read-token", "/cas/v1/reconstructions/"])
@pytest.mark.parametrize("kind", ["503", "reset"])
def test_a_step_of_xet_that_fails_once_is_not_seen(
    xet: None, server: LoopbackHub, tmp_path: Path, no_waiting: list[float], step: str, kind: str
) -> None:
    world = ServerWorld(tmp_path, server)
    seed(world, tmp_path / "run", evaluated=False, baseline=False)
    server.fault(step, kind)
    pulled = world.hub().pull(REPO)
    assert (pulled.folder / WEIGHTS).read_bytes() == world.files()[WEIGHTS]
    assert server.faults[0].times == 0 and server.unknown == []
