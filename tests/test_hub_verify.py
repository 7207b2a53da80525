"""Verifying: every byte, every value, and what was measured beside what is claimed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_world import CORE, REPO, FolderWorld, World, make_run, seed
from safetensors.torch import load_file, save_file

from hsae_hub.artifact import file_info, read_config, write_atomic
from hsae_hub.evaluation import CoreReport
from hsae_hub.hub import Hub, Verified
from hsae_hub.hub.claims import OTHER_TEXT, SAME_TEXT

pytest_plugins = ("hub_fixtures",)

WEIGHTS = "sae.safetensors"


def results(verified: Verified) -> dict[str, bool | None]:
    return {check.name: check.passed for check in verified.checks}


def measured(ev: float, l0: float, **changes: Any) -> CoreReport:
    """A measurement, on the text of `CORE` unless it is changed."""
    saes = {"sae": {"explained_variance": ev, "l0": l0}}
    return CoreReport.model_validate({**CORE, "weights": {}, **changes, "saes": saes})


def test_an_sae_that_is_what_it_says(world: World, tmp_path: Path) -> None:
    commit = seed(world, tmp_path / "run")
    verified = world.hub().verify(REPO)
    assert verified.passed and verified.commit == commit and verified.causes == ()
    assert results(verified) == {
        "files": True,
        "config.json": True,
        "baseline/config.json": True,
        "values": True,
        "report": True,
    }
    assert world.hub().verify(REPO).passed  # from the cache
    assert world.hub().verify(tmp_path / "run").passed


@pytest.mark.parametrize("name", [WEIGHTS, "recipe.yaml", "baseline/sae.safetensors"])
def test_a_byte_that_changed_here_is_found_and_left_to_a_pull(
    world: World, tmp_path: Path, name: str
) -> None:
    seed(world, tmp_path / "run")
    path = world.hub().pull(REPO).folder / name
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good[:-1] + b"!")
    verified = world.hub().verify(REPO)
    assert not verified.passed and results(verified) == {"files": False}
    assert name in verified.checks[0].told and "expected" in verified.checks[0].told
    assert path.read_bytes() != good
    world.hub().pull(REPO, verify=True)
    assert world.hub().verify(REPO).passed and path.read_bytes() == good


def test_a_value_that_is_not_finite_is_found(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, baseline=False)
    weights = load_file(run / WEIGHTS)
    weights["W_enc"][0, :2] = torch.inf
    save_file(weights, run / WEIGHTS)
    config = read_config(run)
    files = {**config.files, WEIGHTS: file_info(run / WEIGHTS)}
    write_atomic(run / "config.json", config.model_copy(update={"files": files}).to_json())
    world.put({p.name: p.read_bytes() for p in run.glob("*.*") if p.suffix != ".pt"})
    for ref in (REPO, run):
        verified = world.hub().verify(ref)
        assert results(verified)["values"] is False
        told = {check.name: check.told for check in verified.checks}["values"]
        assert "sae.safetensors: W_enc has 2 values that are not finite" in told


def test_a_folder_whose_weights_are_others_is_found(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    make_run(tmp_path / "other", seed=1)
    (tmp_path / "run" / WEIGHTS).write_bytes((tmp_path / "other" / WEIGHTS).read_bytes())
    verified = Hub(tmp_path).verify(tmp_path / "run")
    assert results(verified)["config.json"] is False and not verified.passed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_run(tmp_path / "run")
    return tmp_path / "run"


EV, L0 = CORE["saes"]["sae"]["explained_variance"], CORE["saes"]["sae"]["l0"]


@pytest.mark.parametrize(
    ("ev", "l0", "other_text", "expected"),
    [
        (EV, L0, False, (True, True)),
        (EV - SAME_TEXT.explained_variance / 2, L0 * 1.05, False, (True, True)),
        (EV - SAME_TEXT.explained_variance * 2, L0, False, (False, True)),
        (EV + SAME_TEXT.explained_variance * 2, L0, False, (False, True)),
        (EV, L0 * SAME_TEXT.l0 * 1.01, False, (True, False)),
        (EV - 0.1, L0 * 1.5, True, (True, True)),
        (EV + 0.1, L0, True, (True, True)),
        (EV - OTHER_TEXT.explained_variance * 1.1, L0, True, (False, True)),
        (-2.0, L0 * 3, True, (False, False)),
        (EV, L0 / 3, True, (True, False)),
    ],
)
def test_what_was_measured_stands_beside_what_is_claimed(
    folder: Path, ev: float, l0: float, other_text: bool, expected: tuple[bool, bool]
) -> None:
    report = measured(ev, l0, **({"data": ["another text"]} if other_text else {}))
    verified = Hub(folder).verify(folder, report=report)
    found = results(verified)
    assert (found["explained_variance"], found["l0"]) == expected
    assert verified.passed == all(expected) == (verified.causes == ())
    told = {check.name: check.told for check in verified.checks}["explained_variance"]
    assert told == f"measured {ev:.4f}, claimed {EV:.4f}"


def test_causes_say_what_is_known_to_differ(folder: Path) -> None:
    model = {"id": "google/gemma-2-2b", "revision": None}
    report = measured(-0.5, L0 * 4, model=model, data=["my text"])
    causes = " | ".join(Hub(folder).verify(folder, report=report).causes)
    for words in (
        "measured on google/gemma-2-2b, but trained on gemma2-tiny-en",
        "another layer, another side of it, or another scale",
        "BOS and other special tokens were kept",
        "this about my text",
    ):
        assert words in causes
    few = Hub(folder).verify(folder, report=measured(EV, L0 / 4)).causes
    assert "normalised twice" in few[0]


def test_a_report_about_other_weights_claims_nothing(tmp_path: Path) -> None:
    world = FolderWorld(tmp_path)
    run = tmp_path / "run"
    make_run(run)
    core = json.loads((run / "eval" / "core.json").read_text())
    core["weights"] = {"sae": "0" * 64}
    (run / "eval" / "core.json").write_text(json.dumps(core))
    seed_files = {n: (run / n).read_bytes() for n in ("config.json", WEIGHTS, "eval/core.json")}
    world.put({**seed_files, "stats.safetensors": (run / "stats.safetensors").read_bytes()})
    verified = world.hub().verify(REPO, report=measured(0.1, 5.0))
    found = results(verified)
    assert found["report"] is False and found["explained_variance"] is None
    (run / "eval" / "core.json").write_text("[")
    verified = world.hub().verify(run, report=measured(-1.0, 5.0))
    assert results(verified) == {
        **{"config.json": True, "baseline/config.json": True, "values": True},
        **{"report": None, "explained_variance": False, "l0": None},
    }
