"""`hsae steer`: specs, modes, gates, sweeps, and a session of lines."""

import io
import json
from pathlib import Path
from typing import Any

import attach_oracle as oracle
import pytest

from hsae_hub.attach import Edit, Gate, attach, read_steering
from hsae_hub.cli.main import run

PROMPT = "The town is"
SHORT = ["--max-new-tokens", "5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("steer") / "sae"
    oracle.saved_sae(path)
    return str(path)


def call(capsys: Any, *args: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["steer", *args])
    return code, *capsys.readouterr()


def test_a_spec_is_saved_and_steers_the_same_again(
    folder: str, tmp_path: Path, capsys: Any
) -> None:
    path = str(tmp_path / "town.yaml")
    edits = ["--edit", "12/3=+2", "--edit", "5=0", "--gate", "generated", "--gate", "after:town"]
    code, out, err = call(capsys, folder, PROMPT, *edits, *SHORT, "--save", path, "--json")
    assert code == 0, err
    gate = Gate(part="generated", after="town")
    spec = read_steering(path)
    assert spec.sae == folder and spec.edits == (
        Edit(feature="12/3", strength=2, gate=gate),
        Edit(feature="5", mode="ablate", gate=gate),
    )
    data = json.loads(out)
    assert data["edits"][1] == {
        "feature": "5", "mode": "ablate", "gate": {"part": "generated", "after": "town"}
    }  # fmt: skip
    again = json.loads(call(capsys, folder, PROMPT, "--spec", path, *SHORT, "--json")[1])
    assert again == data
    lm = attach(oracle.saved_sae(tmp_path / "twin"), oracle.fresh_model())
    with lm.steer(spec):
        assert lm.generate(PROMPT, max_new_tokens=5) == data["steered"]
    assert lm.generate(PROMPT, max_new_tokens=5) == data["unsteered"]
    assert data["mean_kl"] == pytest.approx(sum(data["kl"]) / 5) and len(data["loss"]) == 5


def test_a_sweep_is_a_table(folder: str, capsys: Any) -> None:
    args = [folder, PROMPT, "--edit", "12/3=+2", "--sweep", "0,1,2", *SHORT]
    code, out, err = call(capsys, *args, "--json")
    assert code == 0, err
    data = json.loads(out)
    assert [row["times"] for row in data["sweep"]] == [0, 1, 2]
    assert data["sweep"][0]["text"] == data["unsteered"] and data["sweep"][0]["mean_kl"] < 1e-6
    kls = [row["mean_kl"] for row in data["sweep"]]
    assert kls == sorted(kls)
    text = call(capsys, *args)[1].splitlines()
    assert text[2].split() == ["times", "KL", "loss", "text"] and len(text) == 6
    assert text[5].startswith(f"    2  {kls[2]:.3f}")
    assert call(capsys, folder, PROMPT, "--edit", "5=0", "--sweep", "0,1", *SHORT)[0] == 2


def test_modes_files_and_units(folder: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    (tmp_path / "p.txt").write_text(PROMPT)
    one = ["--edit", "12/3", "--mode", "swap:12/1", *SHORT]
    from_file = call(capsys, folder, "--file", str(tmp_path / "p.txt"), *one)
    assert from_file[0] == 0, from_file[2]
    assert "with 12/3 (swap:12/1):" in from_file[1]
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT))
    assert call(capsys, folder, "-", *one)[1] == from_file[1]
    raw = call(capsys, folder, PROMPT, "--edit", "7=20", "--raw", *SHORT)
    assert raw[0] == 0 and call(capsys, folder, PROMPT, "--edit", "7=20", *SHORT)[0] == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([PROMPT], "no edit was given"),
        (["--edit", "3=1"], "give a prompt or --file"),
        ([PROMPT, "--file", "x", "--edit", "3=1"], "give a prompt or --file"),
        ([PROMPT, "--edit", "3=1", "--gate", "sometimes"], "no gate 'sometimes'"),
        ([PROMPT, "--edit", "3=1", "--sweep", "a,b"], "--sweep takes numbers"),
        ([PROMPT, "--edit", "3=1", "--sweep", "0,nan"], "--sweep takes numbers"),
        ([PROMPT, "--interactive", "--sweep", "1"], "leave --interactive out"),
        (["-", "--interactive"], "reads stdin itself"),
    ],
)
def test_what_steer_refuses(folder: str, args: list[str], said: str, capsys: Any) -> None:
    code, _, err = call(capsys, folder, *args)
    assert code == 2 and said in err


def test_a_bad_spec_is_told_with_its_lines(folder: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("edits:\n  - {feature: 3}\n  - {feature: 3, strenght: 1}\n")
    code, _, err = call(capsys, folder, PROMPT, "--spec", str(path))
    assert code == 2 and f"{path}:2:" in err and f"{path}:3:" in err and "'edits.strength'" in err


def test_a_session_of_lines(folder: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    path = tmp_path / "s.yaml"
    lines = [
        PROMPT, "/edit 12/3=+2", PROMPT, "/edit 5=much", "/sing", "", "/edit 9=1 relative generated",
        f"/save {path}", "/clear", PROMPT, "/save x.yaml", "/quit", "never read",
    ]  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    code, out, err = call(capsys, folder, "--interactive", *SHORT)
    assert code == 0
    lm = attach(oracle.saved_sae(tmp_path / "twin"), oracle.fresh_model())
    as_it_is = lm.generate(PROMPT, max_new_tokens=5)
    with lm.steer({"12/3": 2}):
        steered = lm.generate(PROMPT, max_new_tokens=5)
    assert out == f"{as_it_is}\n{steered}\n{as_it_is}\n" and steered != as_it_is
    assert "edits: 12/3=+2 (full)\n" in err and "got 'much'" in err
    assert "no command '/sing'" in err and "there is no edit to save" in err
    assert read_steering(path).edits == (
        Edit(feature="12/3", strength=2),
        Edit(feature="9", strength=1, mode="relative", gate=Gate(part="generated")),
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("/edit 3=oops\n"))
    args = [folder, PROMPT, "--edit", "12/3=2", "--interactive", *SHORT, "--json"]
    first, second = map(json.loads, call(capsys, *args)[1].splitlines())
    assert first["steered"] == steered and first["edits"] == ["12/3=+2 (full)"]
    assert second["error"]["kind"] == "usage"
