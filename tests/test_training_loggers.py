"""Loggers that get the lines of metrics.jsonl: the real TensorBoard; Weights & Biases by what it is called with."""

import json
import signal
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import yaml
from test_training import RECIPE, interrupt_at

from hsae_hub.cli.main import run
from hsae_hub.errors import InterruptedRun, ResourceError, UsageError
from hsae_hub.recipes import load_recipe
from hsae_hub.training import train
from hsae_hub.training.loggers import LOGGERS, check_loggers, flat, open_loggers


@pytest.fixture
def recipe():
    return load_recipe("gemma2-tiny-en/l3_hsae").recipe


@pytest.fixture
def wandb(monkeypatch):
    """A module in its place that remembers its runs."""

    class Run:
        def __init__(self, **settings):
            self.settings, self.logged, self.ended = settings, [], None

        def log(self, values, *, step):
            self.logged.append((step, values))

        def finish(self, exit_code):
            self.ended = exit_code

    def init(**settings):
        module.runs.append(Run(**settings))
        return module.runs[-1]

    module = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)
    module.runs, module.init, module.Error = [], init, type("Error", (Exception,), {})
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def test_a_line_is_flattened_to_numbers():
    line = {"step": 4, "lr": 1e-3, "sae": {"l0": 7, "deep": {"x": 0.5}}, "note": "no number"}
    assert flat(line) == {"step": 4, "lr": 1e-3, "sae/l0": 7, "sae/deep/x": 0.5}


def scalars(folder):
    """Values of TensorBoard by name and step, as it reads them itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        name: {event.step: event.value for event in found.Scalars(name)}
        for name in found.Tags()["scalars"]
    }


def test_tensorboard_shows_what_metrics_say_after_a_resume_too(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE))
    loaded, out = load_recipe(tmp_path / "r.yaml"), tmp_path / "run"
    with pytest.raises(InterruptedRun):
        stop = interrupt_at(signal.SIGINT, done=9)
        train(loaded, out, device="cpu", log=["tensorboard"], on_event=stop)
    train(loaded, out, device="cpu", log=["tensorboard", "tensorboard"])
    shown = scalars(out / "tensorboard")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 4, 8, 12, 16, 20]
    for name in ("lr", "sae/explained_variance", "sae/l0", "baseline/loss", "tokens"):
        expected = {line["step"]: flat(line)[name] for line in lines}
        assert shown[name] == pytest.approx(expected, rel=1e-6)
    assert shown.keys() == set().union(*map(flat, lines))


def test_tensorboard_drops_lines_that_a_crash_took_back(tmp_path, recipe):
    pytest.importorskip("tensorboard")
    with open_loggers(["tensorboard"], tmp_path, recipe) as write:
        for step in (1, 2, 3):
            write({"step": step, "loss": 1.0})
    with open_loggers(["tensorboard"], tmp_path, recipe) as write:
        write({"step": 2, "loss": 5.0})
    assert scalars(tmp_path / "tensorboard")["loss"] == {1: 1.0, 2: 5.0}


def test_weights_and_biases_goes_on_with_its_run(tmp_path, recipe, wandb):
    with open_loggers(["wandb"], tmp_path, recipe) as write:
        write({"step": 4, "sae": {"l0": 7.0}})
    with pytest.raises(ZeroDivisionError), open_loggers(["wandb"], tmp_path, recipe) as write:
        raise ZeroDivisionError
    first, second = wandb.runs
    assert first.logged == [(4, {"step": 4, "sae/l0": 7.0})]
    assert (first.ended, second.ended) == (0, 1)
    assert first.settings["id"] == second.settings["id"]
    assert first.settings["resume"] == "allow"
    assert first.settings["config"]["sae"]["n_parents"] == 1024
    assert (first.settings["project"], first.settings["name"]) == ("hsae-hub", tmp_path.name)
    (tmp_path / "other").mkdir()
    with open_loggers(["wandb"], tmp_path / "other", recipe):
        pass
    assert wandb.runs[-1].settings["id"] != first.settings["id"]


def test_the_project_may_come_from_the_environment(tmp_path, recipe, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with open_loggers(["wandb"], tmp_path, recipe):
        assert wandb.runs[0].settings["project"] == "mine"


def test_without_an_account_it_says_what_to_do(tmp_path, recipe, wandb, monkeypatch):
    def refuse(**settings):
        raise wandb.Error("no API key configured\nmore")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ResourceError, match=r"did not start: no API key configured\n") as caught:
        with open_loggers(["wandb"], tmp_path, recipe):
            pytest.fail("opened")
    assert "WANDB_MODE=offline" in caught.value.fix


def test_no_logger_is_no_logger(tmp_path, recipe):
    with open_loggers([], tmp_path, recipe) as write:
        write({"step": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", LOGGERS)
def test_a_package_that_is_missing_is_told_before_anything_is_done(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("hsae_hub.training.loggers.find_spec", lambda package: None)
    monkeypatch.setattr("hsae_hub.training.run.load_language_model", None)
    out = tmp_path / "run"
    assert run(["train", "gemma2-tiny-en/l3_hsae", "--log", name, "--out", str(out)]) == 7
    told = capsys.readouterr().err
    assert f"logging to {name} needs the package {name}" in told
    assert f"try: pip install 'hsae-hub[{name}]'" in told
    assert not out.exists()


def test_a_logger_nobody_knows():
    with pytest.raises(UsageError, match="no logger 'neptune'; known: tensorboard, wandb"):
        check_loggers(["neptune"])
