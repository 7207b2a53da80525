"""The command in a process of its own, against a slow hub, stopped by signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_world import REPO, ServerWorld, left_over, seed
from loopback import OWNER, LoopbackHub

pytest_plugins = ("hub_fixtures",)

WEIGHTS = "sae.safetensors"
CONTENT = "GET /cdn/"


@pytest.fixture
def served(tmp_path: Path, server: LoopbackHub) -> Iterator[ServerWorld]:
    """A server whose contents take minutes each."""
    world = ServerWorld(tmp_path, server)
    config = {"architecture": "topk", "d_in": 16, "d_sae": 20_000, "k": 4}
    seed(world, tmp_path / "run", config=config, baseline=False, evaluated=False)
    server.fault(CONTENT, "slow", None, seconds=200)
    yield world


def start(served: ServerWorld, *words: str, xet: bool = False) -> subprocess.Popen[str]:
    """The command in a process with a home of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HSAE_"))}
    kept = {k: v for k, v in kept.items() if not k.lower().endswith("_proxy")}
    own = {
        "HF_HOME": str(served.tmp_path / "hf"),
        "HF_ENDPOINT": served.server.url,
        "HF_TOKEN": OWNER,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "hsae_hub", *words],
        env={**kept, **own, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def soon() -> float:
    """Seconds in which a pull ends at a signal: one on an idle machine, more on a busy one."""
    waiting = os.getloadavg()[0] / (os.cpu_count() or 1)
    return 1.0 + 5.0 * max(waiting - 0.5, 0.0)


def stopped(served: ServerWorld, number: int, *, xet: bool) -> tuple[int, str, float]:
    """Exit code, words and seconds of a pull that gets a signal while weights arrive."""
    process = start(served, "pull", REPO, xet=xet)
    until = time.monotonic() + 200
    while not any(request.startswith(CONTENT) for request in served.server.requests):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.05)
    time.sleep(1.0)  # some of it arrives
    began = time.monotonic()
    process.send_signal(number)
    _, told = process.communicate(timeout=100)
    return process.returncode, told, time.monotonic() - began


@pytest.mark.timeout(600)
@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_pull_that_is_stopped(served: ServerWorld, number: int, xet: bool) -> None:
    code, told, seconds = stopped(served, number, xet=xet)
    cache = served.tmp_path / "hf" / "hub"
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
        for part in left_over(cache):
            os.utime(part, (time.time() - 3600,) * 2)
    else:
        assert code == 128 + number and seconds < soon()
        assert f"try: hsae pull {REPO}" in told and "Traceback" not in told
        assert left_over(cache) == []
    assert not list(cache.glob(f"models--*/snapshots/*/{WEIGHTS}"))
    served.server.faults.clear()
    out, told = start(served, "pull", REPO, "--json", xet=xet).communicate(timeout=200)
    pulled = json.loads(out)
    assert pulled["schema"] == "hsae.pull/1" and not pulled["up_to_date"]
    assert (Path(pulled["folder"]) / WEIGHTS).read_bytes() == served.files()[WEIGHTS]
    assert left_over(cache) == [] and OWNER not in told + out
