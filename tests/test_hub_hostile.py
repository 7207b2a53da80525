"""What a repository may hold to do harm, and addresses to which no token goes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hub_world import REPO, FolderWorld, ServerWorld, World, seed
from loopback import OWNER, LoopbackHub
from loopback.state import File

from hsae_hub.errors import CorruptError, HSAEError, UsageError
from hsae_hub.hub import Hub

pytest_plugins = ("hub_fixtures",)

WEIGHTS = "sae.safetensors"
ESCAPES = ["../out.json", "a/../../out.json", "/out.json", "..\\out.json", "C:\\out.json", "a//out.json",
           "a/./out.json", ".git/out.json", "eval/.out.json", "out.json\n", "nul\0.json", "con:out.json"]  # fmt: skip


@pytest.fixture
def served(tmp_path: Path, server: LoopbackHub) -> ServerWorld:
    """A server that holds one SAE."""
    world = ServerWorld(tmp_path, server)
    seed(world, tmp_path / "run", baseline=False)
    return world


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", ["folder", "server"])
def test_no_path_leads_out_or_hides(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    world: World = FolderWorld(tmp_path)
    if kind == "server":
        world = ServerWorld(tmp_path, request.getfixturevalue("server"))
    seed(world, tmp_path / "run")
    if isinstance(world, ServerWorld):
        at = world.server.repos[REPO]
        at.add_commit({**at.commits[at.head], **{p: File(b"{}", False) for p in ESCAPES}}, "bad")
    else:
        world.put({path: b"{}" for path in ESCAPES})
    before = everything(tmp_path)
    pulled = world.hub().pull(REPO)
    assert not [path for path in pulled.files if "out.json" in path or "nul" in path]
    assert not [path for path in everything(tmp_path) - before if "out.json" in path]


def test_a_hundred_thousand_files_are_listed_and_none_of_them_fetched(
    served: ServerWorld,
) -> None:
    at = served.server.repos[REPO]
    served.server.page = 10_000
    many = {f"other/{number}.json": File(b"{}", False) for number in range(100_000)}
    at.add_commit({**at.commits[at.head], **many}, "many")
    with pytest.raises(CorruptError, match=r"has 100,0\d\d files, expected at most 1,000"):
        served.hub().pull(REPO)
    assert sum("/tree/" in request for request in served.server.requests) == 11
    assert not [request for request in served.server.requests if "/resolve/" in request]


def test_a_look_takes_few_bytes_however_large_the_weights_are(served: ServerWorld) -> None:
    big = {"architecture": "topk", "d_in": 16, "d_sae": 40_000, "k": 4}
    seed(served, served.tmp_path / "big", "org/big", config=big, baseline=False)
    weights = served.files("org/big")[WEIGHTS]
    assert len(weights) > 5_000_000
    server = served.server
    server.sent = 0
    shown = served.hub().show("org/big")
    assert {t.name: t.shape for t in shown.tensors}["W_enc"] == (16, 40_000)
    assert shown.core is not None and shown.config.sae.shape().d_sae == 40_000
    assert server.sent < 20_000
    assert not list((served.tmp_path / "cache").rglob("*.safetensors"))
    server.fault("GET .*/sae.safetensors", "norange")  # and of a hub that ignores what is asked for
    server.fault("GET /cdn/", "norange")
    assert served.hub("fresh").show("org/big").tensors == shown.tensors


@pytest.mark.parametrize("length", [0, 1, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_a_header_that_cannot_be_is_not_waited_for(served: ServerWorld, length: int) -> None:
    content = length.to_bytes(8, "little") + bytes(2_000_000)
    served.put({WEIGHTS: content})
    served.server.sent = 0
    with pytest.raises(CorruptError, match=f"{WEIGHTS} of {REPO} has no safetensors header"):
        served.hub().show(REPO)
    assert served.server.sent < 200_000


@pytest.mark.parametrize("text", [b"[]", b"{", b"[" * 20_000, b'{"a":{"dtype":"F32","shape":"x"}}'])
def test_a_header_that_says_nonsense_is_told(served: ServerWorld, text: bytes) -> None:
    served.put({WEIGHTS: len(text).to_bytes(8, "little") + text + bytes(100)})
    with pytest.raises(CorruptError, match="has no safetensors header"):
        served.hub().show(REPO)


def test_weights_of_another_shape_are_told_by_verify_too(served: ServerWorld) -> None:
    files = served.files()
    config = json.loads(files["config.json"])
    config["n_parents"], config["d_sae"] = 9, 9 + 9 * 4
    served.put({"config.json": json.dumps(config).encode()})
    with pytest.raises(CorruptError, match=r"has shape .* but the config gives"):
        served.hub().pull(REPO)
    verified = served.hub().verify(REPO)
    failed = [check for check in verified.checks if check.passed is False]
    assert [check.name for check in failed] == ["config.json"] and "shape" in failed[0].told


@pytest.mark.parametrize(
    "address", ["http://hub.example", "http://10.0.0.1:8080", "http://127.0.0.1.example"]
)
def test_no_token_goes_out_unencrypted(address: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a token would go to .* unencrypted"):
        Hub(address, token=OWNER, cache_dir=tmp_path).place()
    assert Hub(address, cache_dir=tmp_path).place().name == address  # the saved token stays here


def test_a_saved_token_goes_out_unencrypted_as_little(
    client: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.example")
    assert Hub(cache_dir=tmp_path).place().name == "http://hub.example"
    monkeypatch.setenv("HF_TOKEN", OWNER)
    with pytest.raises(UsageError, match=r"a token would go to http://hub.example unencrypted"):
        Hub(cache_dir=tmp_path).place()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:8080")
    assert Hub(cache_dir=tmp_path).place().name == "http://127.0.0.1:8080"


def test_an_address_with_a_password_in_it_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Hub("https://me:hf_verysecret@hub.example", cache_dir=tmp_path).place()
    assert "verysecret" not in str(caught.value) + caught.value.fix


def test_one_bound_holds_for_a_whole_pull(
    served: ServerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hsae_hub.hub import faults

    monkeypatch.setattr(faults, "WAIT_LIMIT", 1.0)
    served.server.fault("GET /cdn/", "503", None)
    served.server.fault(f"GET /api/models/{REPO}$", "429", 1, Retry_After="1")
    began = time.monotonic()
    with pytest.raises(HSAEError) as caught:
        served.hub().pull(REPO)
    assert caught.value.code == 8 and time.monotonic() - began < 20
