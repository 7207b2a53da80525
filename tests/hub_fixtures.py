"""Fixtures of the hub's tests; a module that wants them names this one in `pytest_plugins`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_world import FolderWorld, ServerWorld, World
from loopback import LoopbackHub

from hsae_hub.hub import faults


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The real client, online in this process only, without Xet and without anything of the user's."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.fixture
def xet(client: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same over Xet, which remembers nothing of other tests and gives up soon."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _xet

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "10ms")
    _xet.XET_CONNECTION_INFO_CACHE.clear()
    _xet.abort_xet_session()  # the next one reads the environment
    yield
    _xet.abort_xet_session()


@pytest.fixture
def server(client: None) -> Iterator[LoopbackHub]:
    with LoopbackHub() as running:
        yield running


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Tries again at once; the seconds that would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr(faults.time, "sleep", waited.append)
    return waited


@pytest.fixture(params=["folder", "server", "xet"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """Every guarantee is tested on both places, and on the server over both protocols, through the same code."""
    if request.param == "folder":
        return FolderWorld(tmp_path)
    if request.param == "xet":
        request.getfixturevalue("xet")
    return ServerWorld(tmp_path, request.getfixturevalue("server"))
