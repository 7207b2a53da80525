"""What can go wrong between the real client and a server, one fault at a time."""

from __future__ import annotations

import logging
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_world import PUBLISHED, REPO, FolderWorld, ServerWorld, make_run
from loopback import OWNER, STRANGER, LoopbackHub

from hsae_hub.errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    NetworkError,
    NotFoundError,
    UsageError,
)
from hsae_hub.hub import Hub, faults, load

pytest_plugins = ("hub_fixtures",)
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's

WEIGHTS = "GET /cdn/"


@pytest.fixture
def world(tmp_path: Path, server: LoopbackHub) -> ServerWorld:
    """A server that holds one published SAE."""
    world = ServerWorld(tmp_path, server)
    make_run(tmp_path / "run")
    world.hub().push(tmp_path / "run", REPO)
    server.requests.clear()
    return world


@pytest.fixture
def empty(tmp_path: Path, server: LoopbackHub) -> ServerWorld:
    """A server that holds nothing, and a run to publish."""
    make_run(tmp_path / "run")
    return ServerWorld(tmp_path, server)


def test_every_request_of_the_client_has_a_route(world: ServerWorld, tmp_path: Path) -> None:
    hub = world.hub("another")
    hub.pull(REPO)
    hub.show(REPO)
    hub.search()
    make_run(tmp_path / "run", seed=1)
    hub.push(tmp_path / "run", REPO, tag="v1")
    asked = {request.split()[0] + " " + request.split("/")[1] for request in world.server.requests}
    assert asked <= {"GET api", "POST api", "HEAD org", "GET org", "GET cdn", "POST org", "PUT cdn"}
    assert not [r for r in world.server.requests if "agent-harnesses" in r]


def test_a_pull_asks_little_and_a_warm_one_less(world: ServerWorld) -> None:
    hub = world.hub("another")
    commit = hub.pull(REPO).commit
    requests = list(world.server.requests)
    assert sum("/tree/" in r for r in requests) == 1
    assert sum("/api/" in r for r in requests) == 2
    assert len(requests) <= 2 + 3 * len(PUBLISHED) + 2
    world.server.requests.clear()
    assert hub.pull(REPO).up_to_date
    assert world.server.requests == [f"GET /api/models/{REPO}"]
    world.server.requests.clear()
    assert hub.pull(f"{REPO}@{commit}").up_to_date
    assert world.server.requests == []


def test_load_brings_the_weights_and_what_was_measured(world: ServerWorld) -> None:
    load(REPO, hub=world.hub("another"))
    got = {r.rpartition("/")[2] for r in world.server.requests if r.startswith("HEAD /org")}
    assert got == {"config.json", "core.json", "sae.safetensors", "stats.safetensors"}
    assert not [r for r in world.server.requests if "baseline" in r]


def test_show_moves_few_bytes(world: ServerWorld) -> None:
    world.hub("another").show(REPO)
    whole = [r for r in world.server.requests if r.startswith("GET /org")]
    assert {r.rpartition("/")[2] for r in whole} == {
        "config.json",
        "core.json",
        "README.md",
        "sae.safetensors",
    }


@pytest.mark.parametrize("path", ["sae.safetensors", "README.md"])
def test_a_byte_that_was_wrong_once_is_healed(
    world: ServerWorld, path: str, tmp_path: Path
) -> None:
    pattern = WEIGHTS if path.endswith("safetensors") else f"GET .*{path}"
    world.server.fault(pattern, "corrupt")
    pulled = world.hub("another").pull(REPO)
    assert (pulled.folder / path).read_bytes() == world.files()[path]
    assert (pulled.folder / "sae.safetensors").read_bytes() == world.files()["sae.safetensors"]


@pytest.mark.parametrize("kind", ["reset", "break", "503", "429"])
@pytest.mark.parametrize(
    "step",
    [rf"GET /api/models/{REPO}$", "GET /api/models/.*/tree", "HEAD .*config.json", "GET .*/config.json", WEIGHTS],
    ids=["revision", "tree", "head", "text", "weights"],
)  # fmt: skip
def test_a_fault_that_passes_is_not_seen(
    world: ServerWorld, no_waiting: list[float], step: str, kind: str
) -> None:
    world.server.fault(step, kind, 2, Retry_After="3")
    pulled = world.hub("another").pull(REPO)
    assert not pulled.offline
    assert (pulled.folder / "sae.safetensors").read_bytes() == world.files()["sae.safetensors"]


def test_waiting_ends(world: ServerWorld, no_waiting: list[float]) -> None:
    world.server.fault(rf"GET /api/models/{REPO}$", "503", None)
    with pytest.raises(NetworkError, match="did not answer for org/tiny") as caught:
        world.hub("another").pull(REPO)
    assert caught.value.code == 8
    assert caught.value.why.startswith("the hub answered 503; the cache lacks org/tiny")
    assert len(no_waiting) == faults.TRIES - 1 and sum(no_waiting) < faults.WAIT_LIMIT
    world.server.faults.clear()
    world.server.fault(rf"GET /api/models/{REPO}$", "429", None, Retry_After="3600")
    no_waiting.clear()
    with pytest.raises(NetworkError):
        world.hub("another").pull(REPO)
    assert no_waiting == []  # nobody waits for an hour


def test_what_fails_for_good_is_asked_once(world: ServerWorld, no_waiting: list[float]) -> None:
    for _ in range(2):
        with pytest.raises(NotFoundError):
            world.hub("another").pull("org/nothing")
    assert world.server.requests == ["GET /api/models/org/nothing"] * 2 and no_waiting == []


@pytest.mark.parametrize("kind", ["reset", "503"])
@pytest.mark.parametrize(
    "step",
    ["POST /api/repos/create", "POST .*validate-yaml", "POST .*preupload", "POST .*objects/batch", "PUT /cdn",
     "POST .*lfs/verify", "POST .*/commit/", "GET .*/tree", "POST .*/tag/", "GET .*/refs"],
)  # fmt: skip
def test_a_push_survives_a_passing_fault_at_every_step(
    empty: ServerWorld, tmp_path: Path, no_waiting: list[float], step: str, kind: str
) -> None:
    empty.server.fault(step, kind)
    pushed = empty.hub().push(tmp_path / "run", REPO, tag="v1")
    assert empty.commits() == 1 and pushed.changed
    assert empty.server.repos[REPO].tags == {"v1": pushed.commit}
    assert not empty.server.faults or empty.server.faults[0].times == 0


@pytest.mark.parametrize("step", ["POST /api/repos/create", "POST .*/commit/", "POST .*/tag/"])
def test_a_deed_whose_answer_was_lost_is_not_done_twice(
    empty: ServerWorld, tmp_path: Path, no_waiting: list[float], step: str
) -> None:
    empty.server.fault(step, "lost")
    pushed = empty.hub().push(tmp_path / "run", REPO, tag="v1")
    assert empty.commits() == 1 and pushed.commit == empty.server.repos[REPO].head
    assert empty.server.repos[REPO].private
    assert empty.hub("another").pull(f"{REPO}@v1").commit == pushed.commit


def test_somebody_else_at_the_moment_of_a_lost_answer_is_a_conflict(
    empty: ServerWorld, tmp_path: Path, no_waiting: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty.hub().push(tmp_path / "run", REPO)
    make_run(tmp_path / "other", seed=1)
    empty.server.fault("POST .*/commit/", "reset")
    real = faults.time.sleep

    def intrude(seconds: float) -> None:
        if empty.commits() == 1:
            empty.put({"images.md": b"theirs"})
        real(seconds)

    monkeypatch.setattr(faults.time, "sleep", intrude)
    with pytest.raises(ConflictError, match="during the push"):
        empty.hub().push(tmp_path / "other", REPO)
    assert empty.commits() == 2


def test_an_upload_that_the_server_garbles_is_noticed(empty: ServerWorld, tmp_path: Path) -> None:
    hub = empty.hub()
    place = hub.place()
    hub.push(tmp_path / "run", REPO)
    make_run(tmp_path / "run", seed=1)
    ignored = "sae.safetensors"
    real = type(place).tree

    def without(self: object, repo: str, commit: str) -> object:
        return [e for e in real(place, repo, commit) if e.path != ignored]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(place), "tree", without)
        with pytest.raises(
            CorruptError, match=r"has sae\.safetensors of org/tiny other than it was"
        ):
            hub.push(tmp_path / "run", REPO)


def test_nobody_else_sees_a_private_repository(world: ServerWorld, tmp_path: Path) -> None:
    for token in (None, STRANGER, "hf_garbage"):
        with pytest.raises(NotFoundError, match="no repository org/tiny") as caught:
            Hub(world.server.url, token=token, cache_dir=tmp_path / "b").pull(REPO)
        assert "private" in caught.value.why and caught.value.code == 3
    with pytest.raises((DeniedError, NotFoundError)):
        Hub(world.server.url, token=STRANGER, cache_dir=tmp_path / "b").push(tmp_path / "run", REPO)
    with pytest.raises(DeniedError, match="answered 403") as caught:
        Hub(world.server.url, token=STRANGER, cache_dir=tmp_path / "b").push(
            tmp_path / "run", "org/other"
        )
    assert caught.value.code == 4
    with pytest.raises(DeniedError, match="answered 401"):
        Hub(world.server.url, cache_dir=tmp_path / "b").push(tmp_path / "run", "org/other")


def test_a_gated_repository_says_where_to_ask(world: ServerWorld) -> None:
    world.server.repos[REPO].gated = True
    with pytest.raises(DeniedError, match="org/tiny is gated") as caught:
        world.hub("another").pull(REPO)
    assert f"{world.server.url}/{REPO}" in caught.value.fix and caught.value.code == 4


def test_the_token_stays_with_its_hub(
    world: ServerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    world.hub("another").pull(REPO)
    assert world.server.tokens and not [at for at, _ in world.server.tokens if "/cdn/" in at]
    assert OWNER not in caplog.text
    world.server.tokens.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_of_another_hub")
    with pytest.raises(NotFoundError):
        Hub(world.server.url, cache_dir=tmp_path / "c").pull(REPO)
    assert world.server.tokens == []


def test_offline_the_cache_serves_what_it_holds(
    world: ServerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub = world.hub("another")
    x = torch.randn(3, 16)
    online = hub.pull(REPO)
    expected = load(REPO, hub=hub)(x).sae_out
    world.hub("partial").show(REPO)
    load(REPO, hub=world.hub("weights"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    world.server.requests.clear()
    pulled = hub.pull(REPO)
    assert pulled == online._replace(up_to_date=True, offline=True)
    assert hub.pull(f"{REPO}@{pulled.commit}").folder == pulled.folder
    assert torch.equal(load(REPO, hub=hub)(x).sae_out, expected)
    assert torch.equal(load(REPO, hub=world.hub("weights"))(x).sae_out, expected)
    assert hub.show(REPO).folder == pulled.folder
    with pytest.raises(NetworkError, match="offline") as caught:
        world.hub("empty").pull(REPO)
    assert "the cache lacks org/tiny" in caught.value.why and caught.value.code == 8
    with pytest.raises(NetworkError) as caught:
        world.hub("partial").pull(REPO)
    with pytest.raises(
        NetworkError, match=r"lacks README\.md, SUMMARY\.json, baseline/config\.json and"
    ):
        world.hub("weights").pull(REPO)
    with pytest.raises(NetworkError, match="offline") as caught:
        hub.pull(f"{REPO}@v9")
    assert "the cache has org/tiny at" in caught.value.why
    with pytest.raises(NetworkError):
        hub.push(tmp_path / "run", REPO)
    assert world.server.requests == []


def test_a_hub_that_is_down_is_the_same_as_none(
    world: ServerWorld, no_waiting: list[float]
) -> None:
    hub = world.hub("another")
    online = hub.pull(REPO)
    world.server.server.shutdown()
    world.server.server.server_close()
    huggingface_hub.close_session()  # connections that are open already are still served
    pulled = hub.pull(REPO)
    assert pulled.offline and pulled.folder == online.folder
    with pytest.raises(NetworkError, match="did not answer"):
        hub.pull("org/other")


def test_a_damaged_copy_and_no_hub_to_heal_it(
    world: ServerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub = world.hub("another")
    path = hub.pull(REPO).folder / "sae.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CorruptError, match=r"has sha256 .* expected") as caught:
        hub.pull(REPO)
    assert "the copy here was damaged" in caught.value.why
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert not hub.pull(REPO).up_to_date


def test_the_cache_is_the_clients_own(world: ServerWorld, tmp_path: Path) -> None:
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    hub = world.hub("another")
    pulled = hub.pull(REPO)
    found = try_to_load_from_cache(REPO, "config.json", cache_dir=tmp_path / "another")
    assert str(found) == str(pulled.folder / "config.json")
    cache = scan_cache_dir(tmp_path / "another")
    assert not cache.warnings
    (repo,) = cache.repos
    assert repo.repo_id == REPO and [sorted(r.refs) for r in repo.revisions] == [["main"]]
    world.hub("shown").show(REPO)
    assert not scan_cache_dir(tmp_path / "shown").warnings


def test_a_card_that_the_hub_refuses_is_told(empty: ServerWorld, tmp_path: Path) -> None:
    empty.server.fault("POST .*/commit/", "400")
    with pytest.raises(UsageError, match="refused org/tiny"):
        empty.hub().push(tmp_path / "run", REPO)
    assert empty.commits() == 0


def test_a_folder_that_may_not_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = FolderWorld(tmp_path)
    make_run(tmp_path / "run")
    world.hub().push(tmp_path / "run", REPO)

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hsae_hub.hub.folder.copy_through", refuse)
    with pytest.raises(DeniedError, match="may not be read"):
        world.hub("another").pull(REPO)
