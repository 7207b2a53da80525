"""`hsae cache` and `hsae train --cache`."""

import json
import shlex
import signal
from pathlib import Path

import pytest
import yaml
from stores import LINES, RECIPE, content

from hsae_hub.activations import harvesting
from hsae_hub.cli.main import run
from hsae_hub.recipes import load_recipe, without_paths

pytest_plugins = ["store_fixtures"]
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    data = RECIPE["data"] | {"train": [{"lines": LINES}]}
    path.write_text(yaml.safe_dump(RECIPE | {"data": data}))
    return str(path)


@pytest.fixture(scope="module")
def store(quick, recipe_file, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("store") / "kept")
    options = ["--tokens", "400", "--shard-tokens", "150", "--device", "cpu"]
    assert run(["cache", "make", recipe_file, "--out", folder, *options]) == 0
    return folder


def succeed(capsys, *args):
    assert run(list(args)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_info_tells_size_and_statistics(store, capsys):
    text = succeed(capsys, "cache", "info", store, "--verify")
    assert "gemma2-tiny-en, float32, model.layers.0" in text and "90 given lines" in text
    assert "400 of width 256" in text and "kB, float32, 3 shards" in text
    assert "10.0% of its documents" in text and "6 x the median; they are kept" in text
    assert text.endswith("every byte is the one that was written\n")
    assert succeed(capsys, "cache", "info", store, "-q") == "400\n"
    told = json.loads(succeed(capsys, "cache", "info", store, "--json"))
    assert told["schema"] == "hsae.cache_info/1" and told["verified"] is False
    assert (told["activations"], told["d_in"], len(told["shards"])) == (400, 256, 3)
    assert told["bytes"] > 400 * 1024 and len(told["statistics"]["mean"]) == 256


def test_info_finds_a_flipped_byte(store, tmp_path, capsys):
    for path in Path(store).iterdir():
        raw = bytearray(path.read_bytes())
        raw[-1] ^= path.name == "shard-00002.safetensors"
        (tmp_path / path.name).write_bytes(raw)
    succeed(capsys, "cache", "info", str(tmp_path))
    assert run(["cache", "info", str(tmp_path), "--verify", "--json"]) == 6
    captured = capsys.readouterr()
    assert "shard-00002.safetensors" in json.loads(captured.out)["error"]["message"]
    assert captured.err.startswith("error: 1 of 3 shards")


def test_make_reads_a_finished_store_and_refuses_another(store, recipe_file, capsys):
    before = content(Path(store))
    options = ["--tokens", "400", "--shard-tokens", "150", "--json"]
    told = json.loads(succeed(capsys, "cache", "make", recipe_file, "--out", store, *options))
    assert told["folder"] == store and told["resumed_from"] is None
    assert run(["cache", "make", recipe_file, "--out", store, "--dtype", "bfloat16"]) == 2
    assert "they differ in dtype, shard_tokens, tokens" in capsys.readouterr().err
    assert content(Path(store)) == before


def test_an_interrupted_harvest_prints_the_command_that_goes_on(
    recipe_file, tmp_path, capsys, monkeypatch
):
    real = harvesting.read_batch
    monkeypatch.setattr(
        harvesting, "read_batch", lambda *a: (signal.raise_signal(signal.SIGINT), real(*a))[1]
    )
    out = str(tmp_path / "a store")
    words = ["cache", "make", recipe_file, "--out", out, "--tokens", "300"]
    words += ["--set", "data.heldout_fraction=0.2", "--device", "cpu"]
    assert run(words) == 130
    error = capsys.readouterr().err
    assert "stopped by SIGINT after 76 of 300 activations, which are kept" in error
    command = error.split("try: ")[1].strip()
    assert run(["cache", "info", out]) == 3
    assert "holds no finished store" in capsys.readouterr().err
    monkeypatch.setattr(harvesting, "read_batch", real)
    told = json.loads(succeed(capsys, *shlex.split(command)[1:], "--json"))
    assert (told["resumed_from"], told["activations"]) == (76, 300)


def test_train_reads_a_store(store, recipe_file, tmp_path, capsys):
    out = str(tmp_path / "run")
    steps = ["--set", "train.steps=3", "--device", "cpu", "-q"]
    succeed(capsys, "train", recipe_file, "--cache", store, "--out", out, *steps)
    assert load_recipe(f"{out}/resolved.yaml").recipe.data.cache == store
    wrong = ["--set", "data.context_length=20"]
    assert run(["train", recipe_file, "--cache", store, "--out", f"{out}2", *steps, *wrong]) == 2
    assert "they differ in data.context_length" in capsys.readouterr().err
    assert run(["train", recipe_file, "--cache", f"{store}s", "--out", f"{out}2"]) == 3
    assert "holds no store of activations" in capsys.readouterr().err
    assert run(["train", "--resume", out, "--cache", store]) == 2
    hub = tmp_path / "hub"
    capsys.readouterr()
    succeed(capsys, "push", out, "you/tiny", "--hub", str(hub))
    published = [path.read_bytes() for path in hub.rglob("*") if path.is_file()]
    assert any(b"cache: kept\n" in text for text in published)
    assert not any(store.encode() in text for text in published)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data:\n  cache: /home/me/kept  # mine\n", "data:\n  cache: kept  # mine\n"),
        ("data: {cache: '~/stores/kept', bos: true}", "data: {cache: 'kept', bos: true}"),
        ('data:\n  cache: "/home/\\x6de/kept"\n', "data:\n  cache: kept\n"),
        (
            "data:\n  cache: a/b\n  train: [{text: [a/b/c.txt]}]\n",
            "data:\n  cache: b\n  train:\n  - text:\n    - a/b/c.txt\n",
        ),
        ("data:\n  cache: null\n", "data:\n  cache: null\n"),
        ("# no data\n", "# no data\n"),
        ("data: [", "data: ["),
    ],
)
def test_where_a_store_lies_is_not_published(text, told):
    assert without_paths(text) == told
