"""The commands on a trained SAE, on one that was trained by the command itself."""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hsae_hub.attach import SpliceReport
from hsae_hub.cli.main import run

TEXT = "The corgi slept by the fire."
TINY = """\
hookpoint: model.layers.1
data:
  train:
    - builtin: python-docs
  context_length: 64
  buffer_tokens: 1024
sae: {architecture: hsae, d_in: 256, n_parents: 32, n_children: 4, d_subspace: 2, k: 4}
baseline: {architecture: topk, d_in: 256, d_sae: 32, k: 4}
train: {steps: 8, batch_size: 128, lr: 1e-3, warmup_steps: 2, log_every: 2, checkpoint_every: 4}
eval: {tokens: 300}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(TINY)
    command = ["train", str(folder / "tiny.yaml"), "--out", str(folder / "run"), "--no-progress"]
    assert run(command) == 0
    return str(folder / "run")


def succeed(capsys, *args):
    capsys.readouterr()
    assert run(list(args)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def fail(capsys, *args):
    capsys.readouterr()
    return run(list(args)), capsys.readouterr().err


def test_a_run_that_is_over_is_only_read(trained, capsys):
    assert succeed(capsys, "train", "--resume", trained, "-q").strip() == trained
    data = json.loads(succeed(capsys, "train", "--resume", trained, "--json"))
    assert (data["schema"], data["steps"], data["tokens"]) == ("hsae.train/1", 8, 8 * 128)
    assert {"resolved.yaml", "recipe.yaml", "config.json", "sae.safetensors"} <= {
        path.name for path in Path(trained).iterdir()
    }


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--resume", "RUN", "--set", "seed=1"], 2, "goes on with a run as it was begun"),
        (["--resume", "nowhere"], 3, "nowhere holds no run"),
        (["RECIPE", "--resume", "never", "--out", "RUN"], 2, "holds a run already"),
        (["RECIPE", "--set", "seed=1", "--out", "RUN"], 2, "holds a run of another recipe"),
    ],
)
def test_what_train_refuses(trained, capsys, args, code, message):
    recipe = str(Path(trained).parent / "tiny.yaml")
    words = [{"RUN": trained, "RECIPE": recipe}.get(word, word) for word in args]
    got, err = fail(capsys, "train", *words)
    assert got == code and message in err


def test_train_takes_text_files_and_tells_a_dry_run_apart(tmp_path, trained, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("\n\n".join(f"{TEXT} {i}" for i in range(400)))
    recipe = str(Path(trained).parent / "tiny.yaml")
    args = [recipe, "--text", "*.txt", "--set", "data.heldout_fraction=0.2", "--out", "run"]
    assert "can be run" in succeed(capsys, "train", *args, "--dry-run")
    assert not (tmp_path / "run").exists()
    succeed(capsys, "train", *args, "--no-progress")
    resolved = (tmp_path / "run" / "resolved.yaml").read_text()
    assert "'*.txt'" in resolved and "python-docs" not in resolved


def test_decompose_as_a_tree(trained, capsys):
    out = succeed(capsys, "decompose", trained, TEXT, "--token", "last", "--top", "2")
    assert "'.'" in out and "' corgi'" not in out
    every = succeed(capsys, "decompose", trained, TEXT)
    assert "special, not taken apart" in every and "├─" in every
    assert "unused" not in every
    assert "unused" in succeed(capsys, "decompose", trained, TEXT, "--runner-ups")


def test_a_large_sae_is_read_as_it_is_needed(trained, capsys, monkeypatch):
    from hsae_hub.artifact import read_artifact, reading

    whole = succeed(capsys, "decompose", trained, TEXT)
    seen = []
    monkeypatch.setattr("hsae_hub.cli.loading._LAZY_BYTES", 1000)
    monkeypatch.setattr(
        "hsae_hub.hub.loading.read_artifact",
        lambda *args, **how: seen.append(how["lazy"]) or read_artifact(*args, **how),
    )
    monkeypatch.setattr(reading, "sha256_file", None)  # no hash is taken
    assert succeed(capsys, "decompose", trained, TEXT) == whole and seen == [True]
    assert run(["decompose", trained, TEXT]) == 0
    assert "not hashed: hsae verify" in capsys.readouterr().err


def test_decompose_in_other_formats(trained, capsys, tmp_path, monkeypatch):
    data = json.loads(succeed(capsys, "decompose", trained, TEXT, "--json", "--token", "1"))
    assert data["schema"] == "hsae.decompose/1"
    (token,) = data["tokens"]
    assert token["position"] == 1
    ids = [feature["id"] for feature in token["features"]]
    assert ids and all(feature["child"]["id"].startswith(f"{feature['id']}/") for feature in
                       token["features"])  # fmt: skip
    quiet = succeed(capsys, "decompose", trained, TEXT, "--token", "1", "-q")
    assert quiet.split() == ids[:1]
    lines = succeed(capsys, "decompose", trained, TEXT, "--format", "jsonl").splitlines()
    assert [json.loads(line)["position"] for line in lines] == list(range(len(lines)))
    rows = succeed(capsys, "decompose", trained, TEXT, "--token", "1", "--format", "table")
    assert len(rows.splitlines()) == 2 + 2 * len(ids)  # one line for what is not explained
    (tmp_path / "t.txt").write_text("<script>alert(1)</script>")
    html = succeed(
        capsys, "decompose", trained, "--file", str(tmp_path / "t.txt"), "--format", "html"
    )
    assert html.startswith("<!doctype html>") and "<script" not in html
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    from_stdin = succeed(capsys, "decompose", trained, "-", "--token", "1", "-q")
    assert from_stdin == quiet


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([TEXT, "--token", "99"], 2, "no token '99' in this text; its tokens are 0 to"),
        ([TEXT, "--token", "first"], 2, "no token 'first'"),
        ([], 2, "give a text, --file or --acts"),
        ([TEXT, "--file", "x"], 2, "give a text, --file or --acts"),
        (["--file", "nowhere.txt"], 2, "nowhere.txt cannot be read"),
        ([TEXT, "--model", "not/there"], None, "not/there"),
        ([TEXT, "--device", "quantum"], None, "quantum"),
    ],
)
def test_what_decompose_refuses(trained, capsys, args, code, message):
    got, err = fail(capsys, "decompose", trained, *args)
    assert message in err and "Traceback" not in err and "unexpected" not in err
    assert got == code if code else got > 1


def test_steer_shows_both_texts_and_is_repeatable(trained, capsys):
    args = ["steer", trained, "The town is", "--edit", "strongest=+4", "--max-new-tokens", "8"]
    drawn = [*args, "--temperature", "1", "--seed", "3"]
    data = json.loads(succeed(capsys, *drawn, "--json"))
    assert data["unsteered"] != data["steered"]
    assert data["edits"][0]["strength"] == 4
    assert data == json.loads(succeed(capsys, *drawn, "--json"))
    named = ["--edit", f"{data['edits'][0]['feature']}=+4"]
    text = succeed(capsys, *args[:3], *named, *args[5:], *drawn[-4:])
    assert f"as it is:\nThe town is{data['unsteered']}\n" in text
    assert f"The town is{data['steered']}\n\nKL {data['mean_kl']:.3f} and loss" in text


def test_several_edits_and_a_mode(trained, capsys):
    edits = ["--edit", "3=0", "--edit", "4/1=0", "--mode", "relative"]
    out = succeed(capsys, "steer", trained, "The", *edits, "--max-new-tokens", "2")
    assert "with 3 (ablate), 4/1 (ablate):" in out


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--edit", "999=1"], 3, "999"),
        (["--edit", "3=much"], 2, "much"),
        (["--edit", "3=1", "--mode", "loud"], 2, "loud"),
        ([], 2, "no edit was given"),
        (["--edit", "3=0", "--max-new-tokens", "0"], 2, "max-new-tokens"),
    ],
)
def test_what_steer_refuses(trained, capsys, args, code, message):
    got, err = fail(capsys, "steer", trained, "The town is", *args)
    assert got == code and message in err


def test_splice_measures_held_out_text_a_text_or_files(trained, capsys, tmp_path):
    data = json.loads(succeed(capsys, "splice", trained, "--tokens", "200", "--json"))
    assert data["schema"] == "hsae.splice/1" and "pydoc_data" in data["text"]
    assert data["ce_zero"] > data["ce_clean"]
    out = succeed(capsys, "splice", trained, "--tokens", "200")
    assert "ce_clean" in out and f"{data['ce_clean']:.4f}" in out
    one = json.loads(succeed(capsys, "splice", trained, TEXT, "--json"))
    assert one["predictions"] == one["tokens"] - 1 and one["intervals"] == {}
    low, high = data["intervals"]["ce_spliced"]
    assert low < data["ce_spliced"] < high and f"{low:.4f} to {high:.4f}" in out
    (tmp_path / "t.txt").write_text(TEXT * 20)
    files = json.loads(
        succeed(capsys, "splice", trained, "--text", str(tmp_path / "*.txt"), "--json")
    )
    assert files["text"] == "text files"
    assert fail(capsys, "splice", trained, TEXT, "--text", "x")[0] == 2


def test_splice_from_stdin_with_some_latents_and_with_others_beside(
    trained, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    alone = json.loads(succeed(capsys, "splice", trained, "-", "--json"))
    exact = json.loads(succeed(capsys, "splice", trained, TEXT, "--error-term", "--json"))
    assert exact["ce_spliced"] == exact["ce_clean"] and exact["kl"] == 0
    some = json.loads(succeed(capsys, "splice", trained, TEXT, "--latent", "3", "--json"))
    assert some["ce_spliced"] != alone["ce_spliced"] and some["ce_clean"] == alone["ce_clean"]

    other = tmp_path / "layer2"
    shutil.copytree(trained, other)
    config = json.loads((other / "config.json").read_text())
    config["hookpoint"].update(path="model.layers.2", transformer_lens=None, hidden_states=None)
    (other / "config.json").write_text(json.dumps(config))
    shutil.rmtree(other / "eval", ignore_errors=True)
    both = json.loads(succeed(capsys, "splice", trained, TEXT, "--also", str(other), "--json"))
    assert set(both["saes"]) == {trained, str(other)} and both["ce_clean"] == alone["ce_clean"]
    table = succeed(capsys, "splice", trained, TEXT, "--also", str(other))
    assert f"{both['ce_spliced']:.4f}" in table and f"{other}, acts a token" in table
    code, message = fail(capsys, "splice", trained, TEXT, "--also", str(other), "--latent", "3")
    assert code == 2 and "--latent is for one SAE" in message
    assert fail(capsys, "splice", trained, "  ")[0] == 2


def test_eval_keeps_its_report_in_the_run(trained, capsys):
    data = json.loads(succeed(capsys, "eval", trained, "--json", "--no-progress"))
    report = data["reports"]["core"]
    assert data["schema"] == "hsae.eval/1" and set(report["saes"]) == {"sae", "baseline"}
    assert report["command"] == "hsae eval run"
    assert json.loads((Path(trained) / "eval" / "core.json").read_text()) == report
    out = succeed(capsys, "eval", trained, "--tokens", "200", "--no-progress")
    assert "explained_variance" in out and "baseline" in out
    assert "--tokens 200" in (Path(trained) / "eval" / "core.json").read_text()


def test_results_have_no_nan_in_json(trained, capsys, monkeypatch):
    real = SpliceReport.to_dict
    monkeypatch.setattr(SpliceReport, "to_dict", lambda self: {**real(self), "kl": float("nan")})
    out = succeed(capsys, "splice", trained, TEXT, "--json")
    assert json.loads(out, parse_constant=pytest.fail)["kl"] is None


def test_a_log_instead_of_bars_when_stderr_is_no_terminal(trained, capsys, monkeypatch):
    monkeypatch.setattr("hsae_hub.cli.common.LOG_INTERVAL", 0.0)
    capsys.readouterr()
    assert run(["eval", trained, "--tokens", "210"]) == 0
    captured = capsys.readouterr()
    assert re.search(r"measuring: (\d+)/\1\n", captured.err), "to its end"
    assert "measuring" not in captured.out
    assert run(["eval", trained, "--tokens", "200", "--no-progress"]) == 0
    assert capsys.readouterr().err == ""


def test_ctrl_c_saves_and_says_how_to_go_on(trained, tmp_path, capsys):
    recipe = str(Path(trained).parent / "tiny.yaml")
    code = f"import sys; from hsae_hub.cli.main import run; sys.exit(run({['train', recipe]!r} + sys.argv[1:]))"
    args = ["--out", "run", "--set", "train.steps=100000", "--set", "train.log_every=1"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "which is saved" in err and "  try: hsae train --resume run\n" in err
    assert "Traceback" not in err
