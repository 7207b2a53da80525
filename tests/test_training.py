"""Training runs of tiny SAEs of the embedded model, from the recipe to the folder."""

import json
import math
import shutil
import signal
import threading

import pytest
import torch
import yaml

from hsae_hub.activations import ActivationStream
from hsae_hub.architectures import build
from hsae_hub.artifact import read_artifact
from hsae_hub.errors import (
    CorruptError,
    DivergedError,
    InterruptedRun,
    MisfitError,
    NotFoundError,
    UsageError,
)
from hsae_hub.recipes import load_recipe
from hsae_hub.signals import StopSignals
from hsae_hub.training import train
from hsae_hub.training.checkpoints import latest_checkpoint

RECIPE = {
    "hookpoint": "model.layers.0",
    "data": {
        "train": [{"builtin": "python-docs"}, {"sample": 200}],
        "context_length": 16,
        "buffer_tokens": 256,
        "batch_contexts": 8,
    },
    "sae": {
        "architecture": "hsae",
        "d_in": 256,
        "n_parents": 16,
        "n_children": 3,
        "d_subspace": 2,
        "k": 3,
        "penalty_warmup_steps": 5,
    },
    "baseline": {"architecture": "topk", "d_in": 256, "d_sae": 16, "k": 3},
    "train": {
        "steps": 20,
        "batch_size": 32,
        "lr": 1e-3,
        "warmup_steps": 4,
        "checkpoint_every": 6,
        "log_every": 4,
    },
    "eval": {"tokens": 64},
}


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text("# A tiny run.\n" + yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(scope="module")
def finished(recipe_file, tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("run") / "out"
    return train(load_recipe(recipe_file), out, device="cpu")


def weights(folder):
    return [
        {name: tensor.clone() for name, tensor in read_artifact(place).sae.weights().items()}
        for place in (folder, folder / "baseline")
    ]


def assert_same_weights(folder, other):
    for mine, theirs in zip(weights(folder), weights(other), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    timeless = [json.loads(line) for line in lines]
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in timeless]


def interrupt_at(number, phase="train", done=8):
    def on_event(event):
        if event.phase == phase and event.done >= done:
            signal.raise_signal(number)

    return on_event


def test_a_run_leaves_its_folder_complete(finished, recipe_file):
    out = finished.folder
    assert (out / "recipe.yaml").read_text() == recipe_file.read_text()
    assert load_recipe(out / "resolved.yaml").recipe == load_recipe(recipe_file).recipe
    assert not (out / "checkpoints").exists()
    environment = json.loads((out / "env.json").read_text())
    assert environment["recipe"] == "tiny" and environment["device"] == "cpu"
    assert environment["versions"]["torch"] == torch.__version__
    summary = json.loads((out / "SUMMARY.json").read_text())
    assert (summary["steps"], summary["tokens"]) == (20, 640)
    assert summary["tokens"] == finished.tokens and finished.resumed_from is None


def test_what_is_saved_says_where_it_comes_from(finished):
    config = read_artifact(finished.folder).config
    assert config.model.id == "gemma2-tiny-en" and config.model.tokenizer_sha256
    assert config.hookpoint.path == "model.layers.0"
    assert (config.tokens.context_length, config.tokens.bos) == (16, True)
    assert (config.training.steps, config.training.tokens) == (20, 640)
    assert len(config.training.data) == 2
    assert config.baseline == "baseline"
    stats = finished.sae.info.stats
    assert stats.tokens == 64 and float(stats.density.max()) > 0 and float(stats.p999.max()) > 0
    assert finished.beside["baseline"].info.stats.density.shape == (16,)


def test_metrics_have_a_line_at_the_first_step_and_every_few(finished):
    lines = metrics(finished.folder)
    assert [line["step"] for line in lines] == [1, 4, 8, 12, 16, 20]
    assert [line["tokens"] for line in lines] == [32 * line["step"] for line in lines]
    for line in lines:
        for name in ("sae", "baseline"):
            assert {"loss", "reconstruction", "explained_variance", "l0", "grad_norm"} <= set(
                line[name]
            )
        assert line["sae"]["l0"] <= 6 and line["baseline"]["l0"] <= 3
    assert lines[-1]["sae"]["explained_variance"] > lines[0]["sae"]["explained_variance"]
    assert lines[-1]["sae"]["reconstruction"] < lines[0]["sae"]["reconstruction"]


def test_a_finished_run_is_only_read(finished, recipe_file):
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    again = train(load_recipe(recipe_file), finished.folder, device="cpu")
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before
    assert again.tokens == finished.tokens and again.resumed_from is None


def test_a_baseline_changes_nothing_for_the_main_sae(finished, recipe_file, tmp_path):
    alone = load_recipe(recipe_file, overrides=["baseline=null"])
    state = torch.get_rng_state()
    result = train(alone, tmp_path / "out", device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert result.beside == {}
    theirs = weights(finished.folder)[0]
    assert all(torch.equal(theirs[name], w) for name, w in result.sae.weights().items())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_after_the_step_and_the_run_can_go_on(
    finished, recipe_file, tmp_path, number, code
):
    out, recipe = tmp_path / "out", load_recipe(recipe_file)
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(InterruptedRun, match="after step 8 of 20, which is saved") as caught:
        train(recipe, out, device="cpu", on_event=interrupt_at(number))
    assert caught.value.code == code and caught.value.fix == f"hsae train --resume {out}"
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["00000006", "00000008"]
    result = train(load_recipe(out / "resolved.yaml"), out, device="cpu")
    assert result.resumed_from == 8
    assert_same_weights(out, finished.folder)
    assert metrics(out) == metrics(finished.folder)
    assert read_artifact(out).config.training == read_artifact(finished.folder).config.training


@pytest.mark.parametrize(("phase", "saved"), [("fill", []), ("stats", ["00000018", "00000020"])])
def test_a_signal_outside_of_the_steps_stops_at_once(finished, recipe_file, tmp_path, phase, saved):
    out, recipe = tmp_path / "out", load_recipe(recipe_file)
    with pytest.raises(InterruptedRun) as caught:
        train(recipe, out, device="cpu", on_event=interrupt_at(signal.SIGINT, phase, 1))
    assert caught.value.code == 130
    assert sorted(p.name for p in (out / "checkpoints").glob("*")) == saved
    train(recipe, out, device="cpu")
    assert_same_weights(out, finished.folder)


def test_a_second_signal_does_not_wait():
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.received == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


def test_signals_are_left_alone_outside_of_the_main_thread():
    handler, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with StopSignals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handler]


def test_a_damaged_checkpoint_costs_steps_and_nothing_else(finished, recipe_file, tmp_path):
    out, recipe, messages = tmp_path / "out", load_recipe(recipe_file), []
    with pytest.raises(InterruptedRun):
        train(recipe, out, device="cpu", on_event=interrupt_at(signal.SIGTERM, done=13))
    stream = out / "checkpoints" / "00000013" / "stream.safetensors"
    stream.write_bytes(stream.read_bytes()[:-1])
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 14, "los')
    result = train(recipe, out, device="cpu", on_event=lambda e: messages.append(e.message))
    assert result.resumed_from == 12
    assert any("checkpoint 00000013 is damaged" in message for message in messages)
    assert_same_weights(out, finished.folder)
    assert metrics(out) == metrics(finished.folder)


def test_further_saes_learn_from_the_same_batches_and_disturb_nobody(
    finished, recipe_file, tmp_path
):
    also = 'also={"wide-1.5": {k: 2}, flat: {architecture: topk, d_in: 256, d_sae: 24, k: 4}}'
    recipe = load_recipe(recipe_file, overrides=[also])
    assert recipe.recipe.also["wide-1.5"] == recipe.recipe.sae.model_copy(update={"k": 2})
    with pytest.raises(InterruptedRun):
        train(recipe, tmp_path / "out", device="cpu", on_event=interrupt_at(signal.SIGTERM))
    result = train(load_recipe(tmp_path / "out" / "resolved.yaml"), tmp_path / "out", device="cpu")
    assert list(result.beside) == ["baseline", "wide-1.5", "flat"]
    assert result.resumed_from is not None
    assert_same_weights(tmp_path / "out", finished.folder)

    alone = load_recipe(recipe_file, overrides=["baseline=null", "sae.k=2"])
    other = train(alone, tmp_path / "alone", device="cpu").sae.weights()
    mine = read_artifact(tmp_path / "out" / "wide-1.5").sae.weights()
    assert all(torch.equal(mine[name], other[name]) for name in other)
    assert metrics(tmp_path / "out")[-1]["flat"]["l0"] <= 4


def test_a_run_of_another_recipe_is_not_resumed(finished, recipe_file):
    other = load_recipe(recipe_file, overrides=["train.lr=2e-3", "sae.k=2"])
    with pytest.raises(UsageError, match=r"differ in sae\.k, train\.lr") as caught:
        train(other, finished.folder, device="cpu")
    assert caught.value.problems == (
        "sae.k: 3 in the run, 2 now",
        "train.lr: 0.001 in the run, 0.002 now",
    )


def test_a_run_is_begun_neither_in_another_one_nor_among_other_files(
    finished, recipe_file, tmp_path
):
    recipe = load_recipe(recipe_file)
    with pytest.raises(UsageError, match="holds a run already"):
        train(recipe, finished.folder, resume="never", device="cpu")
    (tmp_path / "letters.txt").write_text("Dear Ada,")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        train(recipe, tmp_path, device="cpu")
    with pytest.raises(UsageError, match="is a file"):
        train(recipe, tmp_path / "letters.txt", device="cpu")


def test_a_changed_text_is_not_trained_on_further(recipe_file, tmp_path):
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text("\n".join(f"Line {i} of a text that will change." for i in range(200)))
    recipe = load_recipe(recipe_file, overrides=[f"data.train=[{{text: [{text}]}}]"])
    with pytest.raises(InterruptedRun):
        train(recipe, out, device="cpu", on_event=interrupt_at(signal.SIGTERM))
    text.write_text(text.read_text().replace("Line 7 ", "Verse 7 "))
    with pytest.raises(CorruptError, match="training text"):
        train(recipe, out, device="cpu")


def test_an_sae_of_the_wrong_width_is_refused(recipe_file, tmp_path):
    wide = ["sae.d_in=128", "baseline.d_in=128"]
    with pytest.raises(MisfitError, match=r"width 128 but .* has width 256") as caught:
        train(load_recipe(recipe_file, overrides=wide), tmp_path / "out", device="cpu")
    assert caught.value.fix == "--set sae.d_in=256 --set baseline.d_in=256"


def test_a_learning_rate_that_blows_up_stops_the_run_and_keeps_the_last_checkpoint(
    recipe_file, tmp_path
):
    changes = ["train.lr=1e25", "train.checkpoint_every=1", "train.warmup_steps=0"]
    with pytest.raises(DivergedError, match=r"at step \d+: the .* of sae is") as caught:
        train(load_recipe(recipe_file, overrides=changes), tmp_path / "out", device="cpu")
    assert caught.value.code == 11
    assert "learning rate" in caught.value.why and "train.lr=" in caught.value.fix
    found, skipped = latest_checkpoint(tmp_path / "out" / "checkpoints")
    assert found.step >= 1 and not skipped
    assert str(tmp_path / "out" / "checkpoints" / f"{found.step:08d}") in caught.value.message
    state = found.tensors["weights.sae"]
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())


def test_activations_that_are_not_finite_stop_the_run(recipe_file, tmp_path, monkeypatch):
    next_batch = ActivationStream.next_batch

    def broken(stream):
        batch = next_batch(stream)
        if stream.tokens > 32 * 9:
            batch[3, 5] = math.inf
        return batch

    monkeypatch.setattr(ActivationStream, "next_batch", broken)
    with pytest.raises(DivergedError, match=r"at step 10: .*00000006") as caught:
        train(load_recipe(recipe_file), tmp_path / "out", device="cpu")
    assert "1 of 8192 values" in caught.value.why and "float32" in caught.value.why


def test_weights_that_are_not_finite_are_never_saved(recipe_file, tmp_path, monkeypatch):
    sae_class = type(build(RECIPE["baseline"]))

    def poison(sae, step, optimizer):
        if step.step == 11:
            sae.W_dec.data[0, 0] = math.nan

    monkeypatch.setattr(sae_class, "after_update", poison)
    with pytest.raises(DivergedError, match="weight W_dec of baseline is nan"):
        train(load_recipe(recipe_file), tmp_path / "out", device="cpu")
    assert latest_checkpoint(tmp_path / "out" / "checkpoints")[0].step == 6


def test_weights_can_be_bfloat16(recipe_file, tmp_path):
    short = ["train.dtype=bfloat16", "train.steps=4", "baseline=null"]
    out = tmp_path / "out"
    result = train(load_recipe(recipe_file, overrides=short), out, device="cpu")
    assert result.sae.dtype == torch.bfloat16
    shutil.rmtree(out)
    with pytest.raises(InterruptedRun):
        train(
            load_recipe(recipe_file, overrides=short),
            out,
            device="cpu",
            on_event=interrupt_at(signal.SIGINT, done=2),
        )
    resumed = train(load_recipe(recipe_file, overrides=short), out, device="cpu")
    for name, tensor in result.sae.weights().items():
        assert torch.equal(tensor, resumed.sae.weights()[name])


def test_a_start_that_failed_before_its_first_step_leaves_the_folder_free(recipe_file, tmp_path):
    out = tmp_path / "out"
    missing = load_recipe(recipe_file, overrides=["data.train=[{text: [missing.txt]}]"])
    with pytest.raises(NotFoundError, match=r"missing\.txt"):
        train(missing, out, device="cpu")
    assert (out / "resolved.yaml").is_file()
    loaded = load_recipe(recipe_file)
    train(loaded, out, device="cpu")
    assert load_recipe(out / "resolved.yaml").recipe == loaded.recipe
    with pytest.raises(UsageError, match="holds a run of another recipe"):
        train(missing, out, device="cpu")
