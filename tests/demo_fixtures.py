"""A page that is served on loopback, and a browser; a module that wants them names this one in `pytest_plugins`."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

gradio = pytest.importorskip("gradio")


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from hsae_hub.demo import Shelf
    from hsae_hub.hub import Hub

    folder = tmp_path_factory.mktemp("demo-hub")
    return Shelf(["tiny"], Hub(folder, cache_dir=folder / "cache"), model=None, device="cpu")


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The command's own page, in a process of its own: what a server leaves open is not this one's."""
    home = tmp_path_factory.mktemp("demo-home")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = ["demo", "tiny", "--port", str(port), "--hub", str(home / "hub"), "--device", "cpu"]
    environment = {**os.environ, "HSAE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    log = home / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "hsae_hub", *words], env=environment, stdout=out, stderr=out
        )
        try:
            address = f"http://127.0.0.1:{port}/"
            until = time.monotonic() + 120
            while not _answers(address):
                assert server.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            yield address
        finally:
            server.terminate()
            server.wait(20)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from _browser(1280)


@pytest.fixture
def phone() -> Iterator[Any]:
    yield from _browser(390)


def _browser(width: int) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver on this machine")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-dev-shm-usage",
        "disable-sync",
    ):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    # headless windows cannot be narrower than 500 pixels; a device of that width can
    running.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    yield running
    running.quit()


@pytest.fixture(scope="session")
def shots() -> Path:
    """Where screenshots are left for people to look at."""
    folder = Path(__file__).parent.parent / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
