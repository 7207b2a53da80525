"""Fixtures of the hub's tests; a module that wants them names this one in `pytest_plugins`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_world import FolderWorld, ServerWorld, World
from loopback_hub import LoopbackHub

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
def server(client: None) -> Iterator[LoopbackHub]:
    with LoopbackHub() as running:
        yield running


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Tries again at once; the seconds that would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr(faults.time, "sleep", waited.append)
    return waited


@pytest.fixture(params=["folder", "server"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """Every guarantee is tested on both places through the same code."""
    if request.param == "folder":
        return FolderWorld(tmp_path)
    return ServerWorld(tmp_path, request.getfixturevalue("server"))
