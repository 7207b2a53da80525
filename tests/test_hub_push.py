"""What a push has to bear: a kill in the middle, faults at every step, refusals; proposals; and searching."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_world import FLAT, REPO, FolderWorld, ServerWorld, World, make_run
from loopback import OWNER, STRANGER, LoopbackHub

from hsae_hub.architectures import build
from hsae_hub.artifact import HookpointConfig, ModelConfig, TrainingConfig, save_sae
from hsae_hub.errors import DeniedError, NetworkError, NotFoundError, UsageError
from hsae_hub.hub import Hub

pytest_plugins = ("hub_fixtures",)
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's


@pytest.fixture(params=["lfs", "xet"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> ServerWorld:
    """A server that holds nothing, over both protocols, and a run to publish."""
    if request.param == "xet":
        request.getfixturevalue("xet")
    make_run(tmp_path / "run")
    return ServerWorld(tmp_path, request.getfixturevalue("server"))


def test_a_stranger_proposes_and_the_repository_stays_as_it_is(
    hub: ServerWorld, tmp_path: Path
) -> None:
    hub.hub().push(tmp_path / "run", REPO, public=True, license="mit")
    make_run(tmp_path / "run", seed=1)
    stranger = Hub(hub.server.url, token=STRANGER, cache_dir=tmp_path / "b")
    head = hub.server.repos[REPO].head
    before = hub.files()
    with pytest.raises(DeniedError):
        stranger.push(tmp_path / "run", REPO, public=True)
    first = stranger.push(tmp_path / "run", REPO, create_pr=True)
    assert first.url == f"{hub.server.url}/{REPO}/discussions/1" and first.changed
    assert hub.server.repos[REPO].head == head and hub.files() == before
    proposed = hub.server.repos[REPO].commits[str(first.commit)]
    weights = (tmp_path / "run" / "sae.safetensors").read_bytes()
    assert proposed["sae.safetensors"].content == weights
    assert stranger.push(tmp_path / "run", REPO, create_pr=True).commit == first.commit
    assert len(hub.server.repos[REPO].pulls) == 1
    assert hub.server.unknown == []


@pytest.mark.parametrize("kind", ["lost", "503"])
def test_a_proposal_whose_answer_was_lost_is_made_once(
    hub: ServerWorld, tmp_path: Path, no_waiting: list[float], kind: str
) -> None:
    hub.hub().push(tmp_path / "run", REPO)
    make_run(tmp_path / "run", seed=1)
    hub.server.fault("POST .*/commit/", kind)
    pushed = hub.hub().push(tmp_path / "run", REPO, create_pr=True)
    assert list(hub.server.repos[REPO].pulls) == [pushed.commit]


def test_what_cannot_be_proposed(tmp_path: Path, server: LoopbackHub) -> None:
    make_run(tmp_path / "run")
    with pytest.raises(NotFoundError, match="to propose anything to"):
        ServerWorld(tmp_path, server).hub().push(tmp_path / "run", REPO, create_pr=True)
    with pytest.raises(UsageError, match="a tag names a commit"):
        ServerWorld(tmp_path, server).hub().push(tmp_path / "run", REPO, create_pr=True, tag="v1")
    folder = FolderWorld(tmp_path)
    folder.hub().push(tmp_path / "run", REPO)
    make_run(tmp_path / "run", seed=1)
    with pytest.raises(UsageError, match="knows no pull requests"):
        folder.hub().push(tmp_path / "run", REPO, create_pr=True)
    assert folder.commits() == 1


PUSH = """
import sys
from hsae_hub.hub import Hub
Hub(sys.argv[1], token=sys.argv[2], cache_dir=sys.argv[3]).push(sys.argv[4], sys.argv[5])
"""


def test_after_a_kill_nothing_is_sent_twice(
    hub: ServerWorld, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    over_xet = "xet" in request.fixturenames
    hub.server.fault("POST .*/commit/", "delay", seconds=60)
    environment = dict(os.environ, HF_HUB_DISABLE_XET=str(int(not over_xet)), HF_HUB_OFFLINE="0")
    environment["HF_HOME"] = str(tmp_path / "hf-home")
    arguments = [hub.server.url, OWNER, str(tmp_path / "cache"), str(tmp_path / "run"), REPO]
    pushing = subprocess.Popen([sys.executable, "-c", PUSH, *arguments], env=environment)
    deadline = time.monotonic() + 120
    while not any("/commit/" in r for r in list(hub.server.requests)):
        assert pushing.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    pushing.send_signal(signal.SIGKILL)
    pushing.wait()
    assert hub.commits() == 0
    sent = [r for r in hub.server.requests if "PUT /cdn" in r or "/xorbs/" in r]
    assert sent
    hub.server.requests.clear()
    hub.hub().push(tmp_path / "run", REPO)
    assert hub.commits() == 1
    assert not [
        r for r in hub.server.requests if "PUT /cdn" in r or ("POST" in r and "/xorbs/" in r)
    ]


def test_a_kill_after_the_commit_landed_leads_to_no_second_one(
    hub: ServerWorld, tmp_path: Path
) -> None:
    hub.hub().push(tmp_path / "run", REPO)  # whose answer nobody read
    again = hub.hub("another").push(tmp_path / "run", REPO, tag="v1")
    assert not again.changed and hub.commits() == 1
    assert hub.server.repos[REPO].tags == {"v1": again.commit}


STEPS = ["/api/repos/create", "/preupload/", "/objects/batch", "PUT /cdn", "xet-write-token",
         "/xorbs/", "/shards", "/commit/", "/tag/"]  # fmt: skip


@pytest.mark.parametrize("kind", ["429", "reset"])
def test_a_fault_at_every_step_of_one_push_is_not_seen(
    hub: ServerWorld, tmp_path: Path, no_waiting: list[float], kind: str
) -> None:
    for step in STEPS:
        hub.server.fault(step, kind, Retry_After="1")
    pushed = hub.hub().push(tmp_path / "run", REPO, tag="v1")
    assert hub.commits() == 1 and hub.server.repos[REPO].tags == {"v1": pushed.commit}
    assert {fault.pattern for fault in hub.server.faults if fault.times == 0} >= {
        "/api/repos/create", "/preupload/", "/commit/", "/tag/"
    }  # fmt: skip


def test_a_hub_that_stays_down_is_told_and_nothing_is_half_there(
    hub: ServerWorld, tmp_path: Path, no_waiting: list[float]
) -> None:
    hub.server.fault("POST .*/commit/", "503", None)
    with pytest.raises(NetworkError, match="did not answer"):
        hub.hub().push(tmp_path / "run", REPO)
    assert hub.commits() == 0 and hub.files() == {}
    hub.server.faults.clear()
    assert hub.hub().push(tmp_path / "run", REPO).changed and hub.commits() == 1


def test_metadata_that_the_hub_refuses_are_told_before_any_byte(
    hub: ServerWorld, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="must be one of") as caught:
        hub.hub().push(tmp_path / "run", REPO, license="not-a-licence")
    assert caught.value.code == 2 and hub.commits() == 0
    assert not [r for r in hub.server.requests if "/cdn/" in r or "/xorbs/" in r]


def test_the_tables_of_an_index_go_without_a_warning(hub: ServerWorld) -> None:
    head = hub.put({"old.md": b"old"})
    add: dict[str, Path | bytes] = {"features/latents.parquet": b"PAR1"}
    hub.hub().place().commit(REPO, add, ["old.md"], message="index", parent=head)
    assert hub.files() == {"features/latents.parquet": b"PAR1"}


def test_search_finds_by_name_model_and_layer(world: World, tmp_path: Path) -> None:
    training = TrainingConfig(seed=0, steps=1, tokens=1, data=["x"], written_by="hsae-hub 0.1.0")
    for name, model, layer in (
        ("tiny", "gemma2-tiny-en", 3),
        ("gemma", "google/gemma-2-2b", 12),
        ("wide", "google/gemma-2-2b", 1),
    ):
        save_sae(
            build(FLAT),
            tmp_path / name,
            model=ModelConfig(id=model),
            hookpoint=HookpointConfig(path=f"model.layers.{layer}"),
            training=training,
        )
        world.hub().push(tmp_path / name, f"org/{name}")
    if isinstance(world, ServerWorld):
        world.server.page = 2
    world.put({"model.bin": b"another kind of model"}, "org/other")

    def found(*args: str, **wanted: object) -> list[str]:
        return [each.info.repo for each in world.hub().search(*args, **wanted)]  # type: ignore[arg-type]

    assert sorted(found()) == ["org/gemma", "org/tiny", "org/wide"]
    assert len(found(limit=2)) == 2
    assert found("TIN") == found(model="gemma2-tiny-en") == ["org/tiny"]
    assert sorted(found(model="gemma-2-2b")) == ["org/gemma", "org/wide"]
    assert found("google topk", layer=12) == ["org/gemma"]
    assert found(layer=2) == found("nothing") == found(model="gemma-2") == []
    (tiny,) = world.hub().search("tiny")
    assert tiny.info.models == ("gemma2-tiny-en",) and tiny.info.layers == (3,)
    (gemma,) = world.hub().search("gemma", layer=12)
    assert gemma.info.models == ("google/gemma-2-2b",)
