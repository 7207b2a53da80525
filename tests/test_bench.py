"""The benchmarks' runner: one run, one table, one JSON; a part that fails takes nothing from the others."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parent / "bench"
BROKEN = """
from harness import Findings, Took, run_part

def measure(found, scale):
    found.add_times({"slow": [Took(4.0, 2.0), Took(9.0, 8.0)], "quick": [Took(2.0, 1.0), Took(3.0, 1.0)]})
    found.ratio("slow", "quick", bar=2.4)
    found.slope("work", "size", {"10": [Took(1.0, 1.0)], "100": [Took(100.0, 1.0)], "1000": [Took(10_000.0, 1.0)]})
    raise OSError("no luck")

run_part(Findings(part="broken", title="breaks"), measure)
"""
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def run(*words: str, peers: str | None = None) -> tuple[int, str]:
    environment = {key: value for key, value in os.environ.items() if key != "HSAE_PEERS_PYTHON"}
    if peers:
        environment["HSAE_PEERS_PYTHON"] = peers
    command = [sys.executable, str(BENCH / "run.py"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def ran(folder: Path) -> tuple[int, str]:
    (folder / "broken.py").write_text(BROKEN)
    (folder / "killed.py").write_text(KILLED)
    parts = [str(folder / "broken.py"), str(folder / "killed.py"), "step"]
    outputs = ["--json", str(folder / "out.json"), "--plot", str(folder / "out.png")]
    return run(*parts, "--quick", "--rounds", "3", *outputs)


@pytest.fixture(scope="module")
def report(ran: tuple[int, str], folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


def test_the_json_says_what_was_measured_where_and_with_what(report: dict[str, Any]) -> None:
    assert report["schema"] == "hsae.bench/1" and report["quick"] and report["rounds"] == 3
    assert {"python", "torch", "hsae-hub"} <= report["versions"].keys() and report["peers"] == {}
    machine = report["machine"]
    assert machine["threads"] == 1 and "cores" in machine["processor"]
    assert len(machine["load_at_start"]) == len(machine["load_at_end"]) == 3
    assert [part["part"] for part in report["parts"]] == ["broken", "killed", "step"]
    (step,) = (part for part in report["parts"] if part["part"] == "step")
    assert step["error"] is None and step["sizes"]["d_in"] == 64
    assert any("bench-peers" in note for note in step["notes"])
    assert {("hsae", "topk"), ("batch_topk", "topk "), ("group", "topk ")} <= {
        (ratio["of"], ratio["over"]) for ratio in step["ratios"]
    }


def test_ratios_are_taken_within_a_round(report: dict[str, Any]) -> None:
    taken = 0
    for part in report["parts"]:
        readings = {reading["name"]: reading["values"] for reading in part["readings"]}
        for ratio in part["ratios"]:
            pairs = zip(readings[ratio["of"]], readings[ratio["over"]], strict=True)
            assert ratio["values"] == [a / b for a, b in pairs]
            assert ratio["spread"]["median"] == statistics.median(ratio["values"])
            taken += 1
    assert taken >= 4


def test_what_a_failing_part_found_is_kept_and_the_others_go_on(
    ran: tuple[int, str], report: dict[str, Any]
) -> None:
    code, table = ran
    broken, killed, step = report["parts"]
    assert code == 1
    assert broken["error"] == "OSError: no luck" and "ended with -9" in killed["error"]
    (ratio,) = broken["ratios"]
    assert ratio["values"] == [2, 3] and ratio["cpu"]["median"] == 5
    assert ratio["spread"] == {"median": 2.5, "low": 2.25, "high": 2.75}
    (slope,) = broken["slopes"]
    assert slope["slope"] == pytest.approx(2) and slope["high"] - slope["low"] < 1e-6
    assert step["readings"]
    (line,) = (line for line in table.splitlines() if " slow " in line)
    assert line.split() == [
        "broken",
        "slow",
        "quick",
        *"2.50 [2.25, 2.75] 5.00 ≤ 2.4 - 6.5 s 2.5 s".split(),
    ]
    for words in ("failed: OSError: no luck", "failed: ended with -9", "^2.00 [2.00, 2.00]"):
        assert words in table


def test_bars_are_judged_for_the_full_sizes_alone(folder: Path, ran: tuple[int, str]) -> None:
    _, table = run(str(folder / "broken.py"), "--rounds", "2")
    assert "≤ 2.4  MISSED" in table and "MISSED" not in ran[1]


def test_the_plot_is_written_as_png_and_svg(ran: tuple[int, str], folder: Path) -> None:
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")
    drawn = (folder / "out.svg").read_text()
    assert "<svg" in drawn and len(drawn) > 10_000


def test_an_unknown_part_is_refused() -> None:
    assert run("nothing")[0] == 2


def test_every_part_of_the_folder_is_run_but_those_for_a_gpu() -> None:
    _, names = run("--list")
    scripts = {path.stem for path in BENCH.glob("*.py") if "run_part(" in path.read_text()}
    assert set(names.split()) == scripts - {"gpu"}


def test_the_peers_steps_take_turns_with_ours(tmp_path: Path) -> None:
    python = os.environ.get("HSAE_PEERS_PYTHON")
    if python is None:
        pytest.skip("HSAE_PEERS_PYTHON names no Python that has the peers (make peers)")
    out = tmp_path / "out.json"
    assert run("step", "--quick", "--rounds", "2", "--json", str(out), peers=python)[0] == 0
    report = json.loads(out.read_text())
    assert report["peers"].keys() == {"sae-lens", "dictionary-learning", "eai-sparsify"}
    ratios = {(ratio["of"], ratio["over"]) for ratio in report["parts"][0]["ratios"]}
    for peer in ("sae_lens", "dictionary_learning", "sparsify_adam", "sparsify_signum"):
        assert {("topk", peer), ("hsae", peer)} <= ratios
