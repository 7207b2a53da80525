"""Several processes that train as one: two of them, under torchrun with gloo, against one alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from test_architectures import TINY
from test_training import (
    RECIPE,
    interrupt_at,
    metrics,
)

from hsae_hub.artifact import read_artifact
from hsae_hub.cli.failing import is_told_elsewhere
from hsae_hub.errors import (
    DivergedError,
    InterruptedRun,
    NetworkError,
    StoppedElsewhere,
    UsageError,
)
from hsae_hub.launch import place
from hsae_hub.ops.collective import Part
from hsae_hub.recipes import load_recipe
from hsae_hub.training import train
from hsae_hub.training.checkpoints import latest_checkpoint

if not torch.distributed.is_available():
    pytest.skip("this PyTorch has no torch.distributed", allow_module_level=True)

import several_processes as steps

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SCRIPT = """
import sys, time
from hsae_hub.recipes import load_recipe
from hsae_hub.training import train

def tell(event):
    if event.phase == "train":
        print(event.done, flush=True)
        time.sleep(0.05)

train(load_recipe(sys.argv[1]), sys.argv[2], device="cpu", on_event=tell)
"""


def started(*arguments: object, **pipes: int) -> subprocess.Popen[str]:
    folder = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": folder}
    return subprocess.Popen(
        [*TORCHRUN, *map(str, arguments)], text=True, env={**os.environ, **settings}, **pipes
    )


# --- steps of every architecture ---


@pytest.fixture(scope="module")
def alone():
    return steps.go_on(steps.trainer_of(list(TINY)))


@pytest.fixture(scope="module")
def found(alone, tmp_path_factory):
    """The same steps by two processes: replicated and sharded, from the start and from what one process left."""
    folder = tmp_path_factory.mktemp("steps")
    torch.save(alone["halfway"], folder / "halfway.pt")
    process = started(steps.__file__, folder, stderr=subprocess.PIPE)
    _, told = process.communicate(timeout=280)
    assert (folder / "found.pt").is_file(), told
    return torch.load(folder / "found.pt", weights_only=False) | {"told": told}


def assert_alike(name, one, several):
    """Metrics, weights, tables of latents and the checkpoint halfway; in double precision only rounding differs."""
    last = one["lines"][-len(several["lines"]) :]
    for line, other in zip(last, several["lines"], strict=True):
        assert [line[key] for key in ("step", "tokens", "lr")] == [
            other[key] for key in ("step", "tokens", "lr")
        ]
        assert other[name] == pytest.approx(line[name], rel=1e-9, abs=1e-12)
    assert one["weights"][name].keys() == several["weights"][name].keys()
    for key, tensor in one["weights"][name].items():
        torch.testing.assert_close(several["weights"][name][key], tensor, rtol=1e-9, atol=1e-12)
    assert torch.equal(several["stats"][name].density, one["stats"][name].density)
    torch.testing.assert_close(several["stats"][name].p999, one["stats"][name].p999)
    assert several["stats"][name].tokens == one["stats"][name].tokens
    for part in ("weights", "optimizer"):
        wanted = one["halfway"].tensors[f"{part}.{name}"]
        saved = several["halfway"].tensors[f"{part}.{name}"]
        torch.testing.assert_close(saved, wanted, rtol=1e-9, atol=1e-12)


def test_the_steps_have_in_them_what_looks_at_the_whole_batch(alone):
    for name in ("topk", "batch_topk", "matryoshka"):
        assert any(line[name]["aux"] > 0 for line in alone["lines"]), "no latent ever was dead"
    moved = alone["halfway"].tensors["weights.compositional"]
    assert moved["W_1"].shape != (8, 10), "no latent changed its tier"
    counters = alone["halfway"].tensors["weights.dynamic"]["batches_seen"]
    assert 0 < counters.min() < steps.HALFWAY, "no latent was resampled"
    assert steps.BATCH % 2 == 1


@pytest.mark.parametrize("name", TINY)
def test_two_processes_train_as_one_does(name, alone, found):
    assert_alike(name, alone, found["replicated"])
    assert_alike(name, alone, found["replicated, from one"])
    assert found["replicated"]["bytes"][name] == alone["bytes"][name]


@pytest.mark.parametrize("name", steps.SHARDED)
def test_two_processes_train_as_one_does_with_half_the_weights_and_moments_each(name, alone, found):
    assert_alike(name, alone, found["sharded"])
    assert_alike(name, alone, found["sharded, from one"])
    assert found["sharded"]["bytes"][name] == pytest.approx(alone["bytes"][name] / 2, rel=0.01)


@pytest.mark.parametrize("run", ["replicated", "sharded"])
def test_one_process_goes_on_where_two_stopped(run, alone, found, tmp_path):
    trainer = steps.trainer_of(list(found[run]["weights"]))
    trainer.restore(found[run]["halfway"], tmp_path)
    rest = steps.go_on(trainer)
    for name in found[run]["weights"]:
        assert_alike(name, alone, rest)


def test_a_number_that_is_not_finite_stops_all_of_them_with_the_same_words(found):
    for told in found["diverged"]:
        assert told == [told[0]] * 2 and "(1 of 264 values)" in told[0]


def test_what_fails_in_one_process_fails_in_both_and_the_first_one_tells_it(found):
    elsewhere = "StoppedElsewhere 2: no such text"
    assert found["failed"] == [["UsageError 2: no such text", elsewhere], [elsewhere, elsewhere]]


def test_a_process_that_dies_ends_the_others_with_a_word(found):
    assert "StoppedElsewhere: another process of this run ended before this one" in found["told"]


# --- whole runs ---

LINES = [f"Number {i} of the lines that a small model reads, {i * i} in all." for i in range(36)]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    """Text that is read more than once, batches that two processes cannot share evenly."""
    data = RECIPE["data"] | {"train": [{"lines": LINES}, {"sample": 100}], "batch_contexts": 4}
    settings = RECIPE["train"] | {"steps": 40, "batch_size": 33, "checkpoint_every": 10}
    also = {"shared": {"architecture": "batch_topk", "d_in": 256, "d_sae": 24, "k": 3}}
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"data": data, "train": settings, "also": also}))
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    return train(load_recipe(recipe_file), out, device="cpu").folder


def assert_same_run(out, other):
    for line, wanted in zip(metrics(out), metrics(other), strict=True):
        assert line.keys() == wanted.keys()
        for name in ("sae", "baseline", "shared"):
            assert line.pop(name) == pytest.approx(wanted.pop(name), rel=1e-4, abs=1e-6)
        assert line == wanted
    for folder in ("", "baseline", "shared"):
        mine, theirs = (read_artifact(run / folder) for run in (out, other))
        for name, tensor in theirs.sae.weights().items():
            torch.testing.assert_close(mine.sae.weights()[name], tensor, rtol=1e-3, atol=1e-5)
        assert mine.stats.tokens == theirs.stats.tokens
        torch.testing.assert_close(mine.stats.density, theirs.stats.density, rtol=0, atol=0.05)


def test_runs_go_on_with_more_and_fewer_processes_and_end_alike(recipe_file, undisturbed, tmp_path):
    out, script = tmp_path / "out", tmp_path / "script.py"
    script.write_text(SCRIPT)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with pytest.raises(InterruptedRun):
        train(load_recipe(recipe_file), out, device="cpu", on_event=interrupt_at(signal.SIGTERM))

    process = started(script, recipe_file, out, **pipes)
    while process.stdout.readline() != "20\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=250)
    assert told.count("stopped by SIGINT after step ") == 2  # the message and that of its traceback
    stopped, skipped = latest_checkpoint(out / "checkpoints")
    assert 20 <= stopped.step < 30 and not skipped

    shutil.copytree(out, tmp_path / "alone")
    result = train(load_recipe(recipe_file), tmp_path / "alone", device="cpu")
    assert result.resumed_from == stopped.step
    assert_same_run(result.folder, undisturbed)

    command = ["-m", "hsae_hub", "train", "--resume", out, "--shard", "--device", "cpu", "--json"]
    process = started(*command, **pipes)
    answer, told = process.communicate(timeout=250)
    assert process.returncode == 0, told
    assert json.loads(answer)["resumed_from"] == stopped.step  # one object: the other one is silent
    assert_same_run(out, undisturbed)
    assert not (out / "checkpoints").exists()
    assert json.loads((out / "env.json").read_text())["processes"] == 2


def test_what_exchanges_latents_cannot_be_sharded(recipe_file, tmp_path):
    changes = ["sae={architecture: dynamic, d_in: 256, d_sae: 16}"]
    with pytest.raises(UsageError, match="dynamic cannot be sharded"):
        train(load_recipe(recipe_file, overrides=changes), tmp_path / "out", shard=True)
    assert not (tmp_path / "out").exists()


# --- parts ---


def test_parts_are_consecutive_and_differ_by_one_at_most():
    for n in range(20):
        parts = [range(n)[Part(rank, 7).rows(n)] for rank in range(7)]
        assert [row for part in parts for row in part] == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_error_is_told_once(monkeypatch):
    assert place() == (0, 0, 1, 1)
    errors = [DivergedError(""), StoppedElsewhere(""), UsageError(""), NetworkError("")]
    silent = {}
    for rank, local_rank in ((0, 0), (1, 1), (2, 0)):
        numbers = {"RANK": rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2}
        for name, value in (numbers | {"TORCHELASTIC_RUN_ID": "none"}).items():
            monkeypatch.setenv(name, str(value))
        assert place() == tuple(numbers.values())
        silent[rank] = [is_told_elsewhere(error) for error in errors]
    assert silent == {0: [False] * 4, 1: [True, True, True, False], 2: [True, True, False, False]}
