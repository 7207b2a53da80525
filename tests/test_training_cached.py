"""Training from a store: no language model, small checkpoints, the same weights after a stop, the same quality."""

import json
import shutil
import signal
import subprocess

import pytest
import torch
import yaml
from stores import RECIPE, make
from test_distributed import started

from hsae_hub.artifact import read_artifact
from hsae_hub.errors import CorruptError, InterruptedRun, UsageError
from hsae_hub.evaluation import evaluate
from hsae_hub.recipes import load_recipe
from hsae_hub.training import run as run_file
from hsae_hub.training import train

pytest_plugins = ["store_fixtures"]
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def store(quick, tmp_path_factory):
    return make(tmp_path_factory.mktemp("store") / "kept", tokens=None).folder


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture
def no_model(monkeypatch):
    """Loading a language model would be an error."""
    monkeypatch.setattr(run_file, "load_language_model", None)


def cached(recipe_file, store, *changes):
    return load_recipe(recipe_file, overrides=[f"data.cache={store}", *changes])


def stop_after(step):
    def on_event(event):
        if event.phase == "train" and event.done >= step:
            signal.raise_signal(signal.SIGTERM)

    return on_event


def weights(folder):
    return {name: w.clone() for name, w in read_artifact(folder).sae.weights().items()}


def last(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def test_a_run_goes_on_with_the_same_weights_and_small_checkpoints(
    recipe_file, store, tmp_path, no_model
):
    recipe = cached(recipe_file, store)
    result = train(recipe, tmp_path / "whole", device="cpu")
    with pytest.raises(InterruptedRun, match="after step 8 of 20"):
        train(recipe, tmp_path / "parts", device="cpu", on_event=stop_after(8))
    stream = tmp_path / "parts" / "checkpoints" / "00000008" / "stream.safetensors"
    assert stream.stat().st_size < 100
    resumed = train(load_recipe(tmp_path / "parts" / "resolved.yaml"), tmp_path / "parts")
    assert resumed.resumed_from == 8
    mine, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert result.tokens == resumed.tokens == 20 * 64
    assert json.loads((tmp_path / "whole" / "env.json").read_text())["device"] == "cpu"


def test_what_is_saved_says_where_it_comes_from_but_not_where_the_store_lies(
    recipe_file, store, tmp_path, no_model
):
    train(cached(recipe_file, store, "train.steps=2"), tmp_path / "run", device="cpu")
    config = read_artifact(tmp_path / "run").config
    assert config.model.id == "gemma2-tiny-en" and config.model.tokenizer_sha256
    assert config.hookpoint.transformer_lens == "blocks.0.hook_resid_post"
    assert (config.tokens.context_length, config.tokens.skip_special) == (12, True)
    assert config.training.data[:2] == [
        "90 given lines",
        "60 tokens sampled from the model, temperature 1",
    ]
    assert "activations, stored once in float32" in config.training.data[2]
    assert str(store) not in (tmp_path / "run" / "config.json").read_text()


def test_it_learns_as_well_as_from_the_model_itself(recipe_file, store, tmp_path):
    longer = ("train.steps=120", "train.lr=3e-3")
    train(cached(recipe_file, store, *longer), tmp_path / "cached", device="cpu")
    streamed = load_recipe(recipe_file, overrides=longer)
    train(streamed, tmp_path / "streamed", device="cpu")
    mine, theirs = (
        last(tmp_path / name)["sae"]["explained_variance"] for name in ("cached", "streamed")
    )
    assert mine == pytest.approx(theirs, abs=0.03)
    first = json.loads((tmp_path / "cached" / "metrics.jsonl").read_text().splitlines()[0])
    assert mine > first["sae"]["explained_variance"] + 0.2


def test_two_processes_learn_from_the_batches_of_one(recipe_file, store, tmp_path):
    both, few = tmp_path / "both", ("train.steps=6", "train.batch_size=33")
    command = ["train", recipe_file, "--cache", store, "--out", both, "--device", "cpu", "-q"]
    words = [word for change in few for word in ("--set", change)]
    process = started("-m", "hsae_hub", *command, *words, stdout=subprocess.DEVNULL)
    assert process.wait(timeout=250) == 0
    one = train(cached(recipe_file, store, *few), tmp_path / "one", device="cpu")
    mine, theirs = weights(both), weights(one.folder)
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=1e-3, atol=1e-5)
    assert last(both)["tokens"] == last(one.folder)["tokens"] == 6 * 33


def test_it_is_measured_on_what_the_harvest_held_out(recipe_file, store, tmp_path):
    recipe = cached(recipe_file, store, "train.steps=2")
    result = train(recipe, tmp_path / "run", device="cpu")
    report = evaluate(result.sae, recipe.recipe.data, tokens=80, device="cpu")
    assert report.tokens >= 60 and report.model["id"] == "gemma2-tiny-en"


def test_another_store_is_refused_before_a_folder_is_made(recipe_file, store, tmp_path, no_model):
    other = cached(recipe_file, store, "data.context_length=20")
    with pytest.raises(UsageError, match=r"they differ in data\.context_length"):
        train(other, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_with_a_store_that_was_made_anew(recipe_file, store, tmp_path):
    place = tmp_path / "store"
    shutil.copytree(store, place)
    recipe = cached(recipe_file, place)
    with pytest.raises(InterruptedRun):
        train(recipe, tmp_path / "run", device="cpu", on_event=stop_after(6))
    shutil.rmtree(place)
    make(place, tokens=700)
    with pytest.raises(CorruptError, match="not the one that this run began with"):
        train(recipe, tmp_path / "run", device="cpu")
