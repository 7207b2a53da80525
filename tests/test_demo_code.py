"""What the page says to type gives what the page shows; and a Space works as it is written."""

import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("gradio")
from hsae_hub.attach import SteeringSpec, parse_edits
from hsae_hub.cli.main import run
from hsae_hub.demo import snippets
from hsae_hub.demo.serving import _check_free
from hsae_hub.demo.steer import row_of, spec_of
from hsae_hub.demo.view import View
from hsae_hub.errors import ResourceError, UsageError

VIEW = View("tiny", "The king's army slept.", token=3, feature="12")
SPEC = SteeringSpec(edits=parse_edits("12=+1.5", gate="generated").edits)


def printed(python: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    exec(compile(python, "snippet", "exec"), {})
    return capsys.readouterr().out


def typed(shell: str, folder: Path) -> str:
    """What the lines print in a shell, with `hsae` the command of this install."""
    script = shell.replace("hsae ", f"{shlex.quote(sys.executable)} -m hsae_hub ")
    found = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_decompose_and_splice_from_code(tmp_path, capsys) -> None:
    for snippet, said in (
        (snippets.decompose(VIEW), "features=("),
        (snippets.splice(VIEW), "ce_spliced"),
        (snippets.feature(VIEW), "children of 12"),
    ):
        assert said in printed(snippet.python, capsys)
        assert run(shlex.split(snippet.shell)[1:]) == 0
        assert capsys.readouterr().out


def test_steering_from_code_writes_what_python_writes(tmp_path, capsys) -> None:
    snippet = snippets.steer(VIEW, "The king", SPEC, 6, 0.0, 0)
    unsteered, steered = printed(snippet.python, capsys).split("\n---\n")
    said = typed(snippet.shell, tmp_path)
    assert unsteered.strip() in said and steered.strip() in said


def test_the_comparison_from_code(capsys) -> None:
    snippet = snippets.compare(VIEW, "tiny:baseline")
    assert "like" in printed(snippet.python, capsys)
    assert run(shlex.split(snippet.shell)[1:]) == 0


@pytest.mark.parametrize(
    "row",
    [
        ["4121/3", "relative", "", 1.5, "always", ""],
        ["12", "ablate", "", 1.0, "feature", ""],
        ["4121/3", "swap", "4121/7", 1.0, "after", "once upon"],
        ["12", "set", "", -0.5, "positions", "0,5,-1"],
        ["12", "scale", "", 2.0, "generated", ""],
    ],
)
def test_controls_and_spec_say_the_same(row) -> None:
    spec = spec_of((*row, "", "full", "", 1.0, "always", ""), "tiny")
    assert len(spec.edits) == 1
    assert row_of(spec.edits[0]) == row


def test_controls_without_a_feature_are_told() -> None:
    with pytest.raises(UsageError, match="no feature to steer"):
        spec_of(("", "full", "", 1.0, "always", ""), "tiny")


@pytest.mark.skipif(find_spec("mcp") is not None, reason="the extra mcp is installed")
def test_tools_that_cannot_be_served_are_told(tmp_path) -> None:
    environment = {**os.environ, "HSAE_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-m", "hsae_hub", "demo", "tiny", "--mcp"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 7
    assert "the tools cannot be served over MCP" in found.stderr
    assert "pip install 'hsae-hub[mcp]'" in found.stderr


def test_a_space_works_as_it_is_written(tmp_path, capsys) -> None:
    folder = tmp_path / "space"
    assert run(["demo", "tiny", "--export-space", str(folder)]) == 0
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert page.startswith("---\ntitle: 'hsae: tiny'\n") and "sdk: gradio" in page
    assert "torch" in (folder / "requirements.txt").read_text(encoding="utf-8")
    assert run(["demo", "tiny", "--export-space", str(folder)]) == 10
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "GRADIO_SERVER_PORT": "7997",
        "HSAE_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    log = tmp_path / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder, env=environment, stdout=out, stderr=out
        )
    try:
        until = time.monotonic() + 120
        while True:
            assert server.poll() is None and time.monotonic() < until, log.read_text()
            try:
                with urllib.request.urlopen("http://127.0.0.1:7997/healthz", timeout=5) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                time.sleep(0.2)
    finally:
        server.terminate()
        server.wait(20)
    assert str(folder) not in page


def test_an_address_that_is_not_of_this_machine_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, number in (("no such host", 0), ("192.0.2.1", 0), ("127.0.0.1", port)):
            with pytest.raises(ResourceError, match="cannot be served"):
                _check_free(host, number)
    _check_free("localhost", 0)
