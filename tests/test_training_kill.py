"""Runs in processes of their own, stopped by real signals, end with the weights of one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from test_training import RECIPE, assert_same_weights

from hsae_hub.recipes import load_recipe
from hsae_hub.training import train
from hsae_hub.training.checkpoints import latest_checkpoint

SCRIPT = """
import json, sys, time, torch
torch.set_num_threads(int(sys.argv[3]))
from hsae_hub.errors import HSAEError
from hsae_hub.recipes import load_recipe
from hsae_hub.training import train

def tell(event):
    if event.phase == "train":
        print(event.done, flush=True)
        time.sleep(float(sys.argv[4]))

try:
    train(load_recipe(sys.argv[1]), sys.argv[2], device="cpu", on_event=tell)
except HSAEError as error:
    print(json.dumps(error.as_dict()), flush=True)
    sys.exit(error.code)
print(json.dumps("nnsight" in sys.modules))
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"train": RECIPE["train"] | {"checkpoint_every": 2}}))
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    process = start(recipe_file, out)
    answer, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(answer.splitlines()[-1]) is False, "training imported nnsight"
    return out


def start(recipe_file, out, pause=0.0):
    arguments = [str(recipe_file), str(out), str(torch.get_num_threads()), str(pause)]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def stop_after(process, step, number):
    """Sends the signal some time after the process has told of a step; returns the rest of what it prints."""
    for line in process.stdout:
        if line.strip() == str(step):
            break
    time.sleep(random.uniform(0, 0.3))
    process.send_signal(number)
    rest = process.stdout.read()
    process.stdout.close()
    process.wait(timeout=60)
    return rest


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_process_saves_and_prints_how_to_resume(
    recipe_file, undisturbed, tmp_path, number, code
):
    out = tmp_path / "out"
    process = start(recipe_file, out, pause=0.1)
    rest = stop_after(process, 7, number)
    assert process.returncode == code
    error = json.loads(rest.splitlines()[-1])
    assert (error["kind"], error["code"]) == ("interrupted", code)
    assert error["fix"] == f"hsae train --resume {out}"
    assert 7 <= latest_checkpoint(out / "checkpoints")[0].step < 20
    assert not (out / "config.json").exists()
    train(load_recipe(recipe_file), out, device="cpu")
    assert_same_weights(out, undisturbed)
