"""What steering is to do, as data: short forms, files, and everything that is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import hsae_hub
from hsae_hub.attach import Edit, Gate, SteeringSpec, parse_edits, parse_gate
from hsae_hub.attach.steering_file import read_steering, steering_schema, write_steering
from hsae_hub.errors import NotFoundError, UsageError

SCHEMA = Path(hsae_hub.__file__).parent / "attach" / "steering.schema.json"
WHOLE = """\
schema: hsae.steering/1
sae: org/name
edits:
  - feature: 4121/3
    strength: 1.5
    gate: {fires: parent, after: once upon}
  - {feature: 588, mode: ablate}
  - {feature: 4121/3, mode: 'swap:4121/7', gate: {part: generated}}
  - {feature: 7, mode: set, strength: 0, units: raw, gate: {positions: [0, -1]}}
  - {direction: [0.5, -1e-3, 0], mode: project_out}
"""
SPEC = SteeringSpec(
    sae="org/name",
    edits=(
        Edit(feature="4121/3", strength=1.5, gate=Gate(fires="parent", after="once upon")),
        Edit(feature="588", mode="ablate"),
        Edit(feature="4121/3", mode="swap:4121/7", gate=Gate(part="generated")),
        Edit(feature="7", mode="set", strength=0, units="raw", gate=Gate(positions=(0, -1))),
        Edit(direction=(0.5, -1e-3, 0.0), mode="project_out"),
    ),
)


def test_edits_are_read_from_every_form() -> None:
    expected = (Edit(feature="4121/3", strength=1.5), Edit(feature="588", mode="ablate"))
    assert parse_edits({"4121/3": 1.5, "588": 0}).edits == expected
    assert parse_edits({"4121/3": 1.5, 588: 0}).edits == expected
    assert parse_edits(["4121/3=+1.5", " 588 = 0"]).edits == expected
    assert parse_edits([expected[0], "588=0"]).edits == expected
    relative = Edit(feature="9/1", strength=-2, mode="relative", units="raw")
    assert parse_edits("9/1=-2", mode="relative", units="raw").edits == (relative,)
    gated = Edit(feature="3", mode="ablate", gate=Gate(part="prompt"))
    assert parse_edits("3", mode="ablate", gate="prompt").edits == (gated,)
    assert parse_edits({"3": 0.0}, mode="set").edits == (Edit(feature="3", mode="set", strength=0),)
    assert parse_edits(SPEC, mode="relative") is SPEC


def test_a_direction_may_be_a_tensor() -> None:
    found = Edit(direction=torch.tensor([1.0, 0.25]), strength=2)  # type: ignore[arg-type]
    assert found.direction == (1.0, 0.25) and str(found) == "direction=+2 (full)"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ([], "no edit was given"),
        (["588"], "588: strength: required with mode full"),
        (["588=much"], "got 'much'"),
        ({"588": float("nan")}, "finite"),
        ({"588": float("inf")}, "finite"),
        (["=1"], "feature"),
    ],
)
def test_edits_that_cannot_be_read_are_refused(spec: Any, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_edits(spec)
    assert said in error.value.message and "4121/3=+1.5" in error.value.fix


def test_every_edit_that_cannot_be_read_is_named() -> None:
    with pytest.raises(UsageError) as error:
        parse_edits(["1=x", "2=1", "3=y"])
    assert len(error.value.problems) == 2


def test_gates_are_read_from_words() -> None:
    assert parse_gate("always") == Gate()
    assert parse_gate(["parent", "after:once: upon", "positions:0, 5,-1", "prompt"]) == Gate(
        fires="parent", after="once: upon", positions=(0, 5, -1), part="prompt"
    )
    for words in ("sometimes", "after:", "positions:x", "parent:3", ["prompt", "generated"]):
        with pytest.raises(UsageError, match="gate"):
            parse_gate(words)


def test_a_file_says_the_same_as_python(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(WHOLE)
    assert read_steering(tmp_path / "s.yaml") == SPEC
    for name in ("again.yaml", "again.json"):
        write_steering(SPEC, tmp_path / name)
        assert read_steering(tmp_path / name) == SPEC
    data = json.loads((tmp_path / "again.json").read_text())
    assert data["schema"] == "hsae.steering/1" and data["edits"][1] == {
        "feature": "588",
        "mode": "ablate",
    }
    (tmp_path / "tabs.json").write_text(
        json.dumps({"edits": [{"feature": "3", "strength": 1, "gate": {"after": "\U0001f600"}}]},
                   indent="\t")
    )  # fmt: skip
    assert read_steering(tmp_path / "tabs.json").edits[0].gate.after == "\U0001f600"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "again.json", "again.yaml", "s.yaml", "tabs.json"
    ]  # fmt: skip


WRONG = """\
schema: hsae.steering/9
edits:
  - feature: 3
    strenght: 2
  - {feature: 3, mode: louder, strength: 1}
  - {feature: 3, mode: ablate, strength: 1}
  - feature: 3
    direction: [1]
    strength: 0
  - {direction: [1], mode: set, strength: 1, gate: {fires: feature}}
  - feature: 3
    strength: much
    gate:
      part: middle
"""


def test_everything_wrong_with_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(WRONG)
    with pytest.raises(UsageError) as error:
        read_steering(path)
    assert error.value.message == "the steering spec has 8 problems; nothing was run"
    found = [p.removeprefix(f"{path}:") for p in error.value.problems]
    assert [p.partition(":")[0] for p in found] == ["1", "4", "5", "6", "7", "10", "12", "14"]
    assert "'hsae.steering/1'" in found[0]
    assert "did you mean 'edits.strength'?" in found[1]
    assert "must be full, relative, set" in found[2] and "louder" in found[2]
    assert "mode ablate has no strength, got 1" in found[3]
    assert "give a feature or a direction, one of them; strength 0 pushes nowhere" in found[4]
    assert "mode set needs a feature" in found[5] and "never fires" in found[5]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "", "must have the key `edits:`"),
        ("a.yaml", "edits: []", "a.yaml:1: no edit was given"),
        ("a.yaml", "edits: 4121/3=1", "a.yaml:1: edits: "),
        ("a.yaml", "edits:\n - {feature: 1\n", "not YAML"),
        ("a.json", '{"edits": [}', "a.json:1: not JSON"),
        ("a.json", '{"edits": [{"feature": 3,\n "feature": 4, "strength": 1}]}', "given twice"),
    ],
)
def test_files_that_are_no_spec(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as error:
        read_steering(tmp_path / name)
    assert said in "\n".join(error.value.problems)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no steering spec"):
        read_steering(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_steering(tmp_path / "b.yaml")


def test_strengths_can_be_varied() -> None:
    spec = parse_edits(
        [*parse_edits({"1": 2, "2": 0}).edits, Edit(feature="3", mode="scale", strength=0.5)]
    )
    twice = spec.scaled(2.0)
    assert twice is not None and [e.strength for e in twice.edits] == [4, None, 1]
    none = spec.scaled(0.0)
    assert none is not None and [e.name for e in none.edits] == ["2", "3"]
    assert parse_edits({"1": 2}).scaled(0.0) is None
    with pytest.raises(UsageError, match="no edit has a strength"):
        parse_edits({"2": 0}).scaled(2.0)


def test_the_published_schema_is_the_model_s() -> None:
    assert json.loads(SCHEMA.read_text()) == steering_schema(), (
        "python -m hsae_hub.attach.schema writes it anew"
    )
