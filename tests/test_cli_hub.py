"""push, pull, ls, show, card and doctor, on a folder that serves as a hub."""

import json
from pathlib import Path

import pytest
import torch

from hsae_hub.architectures import build
from hsae_hub.artifact import HookpointConfig, ModelConfig, TrainingConfig, save_sae
from hsae_hub.cli.main import run

REPO = "me/tiny"


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    torch.set_num_threads(1)
    monkeypatch.setenv("HSAE_HUB", str(tmp_path / "hub"))
    monkeypatch.setenv("HSAE_HOME", str(tmp_path / "home"))
    sizes = {"d_in": 256, "n_parents": 16, "n_children": 4, "d_subspace": 2, "k": 4}
    save_sae(
        build({"architecture": "hsae", **sizes}),
        tmp_path / "run",
        model=ModelConfig(id="gemma2-tiny-en"),
        hookpoint=HookpointConfig(
            path="model.layers.1", transformer_lens="blocks.1.hook_resid_post"
        ),
        training=TrainingConfig(
            seed=0, steps=3, tokens=96, data=["x"], written_by="hsae-hub 0.1.0"
        ),
    )
    return str(tmp_path / "run")


def succeed(capsys, *args):
    capsys.readouterr()
    assert run(list(args)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def fail(capsys, *args):
    capsys.readouterr()
    return run(list(args)), capsys.readouterr().err


def test_push_pull_load_show_and_list(run_folder, capsys, tmp_path):
    planned = succeed(capsys, "push", run_folder, REPO, "--dry-run")
    assert "would be published (private" in planned and "config.json" in planned
    assert not (tmp_path / "hub").exists()
    pushed = json.loads(succeed(capsys, "push", run_folder, REPO, "--tag", "v1", "--json"))
    assert pushed["schema"] == "hsae.push/1" and pushed["changed"] and pushed["private"]
    assert "was there already" in succeed(capsys, "push", run_folder, REPO)

    assert succeed(capsys, "ls", "-q") == ""
    assert succeed(capsys, "ls", "--remote", "-q").split() == [REPO]
    shown = succeed(capsys, "show", REPO)
    assert "hsae, 16 parents × 4 children, float32" in shown
    assert f"no; hsae pull {REPO}" in shown and "64 × 2" not in shown
    assert "output of model.layers.1, in TransformerLens blocks.1.hook_resid_post" in shown

    pulled = json.loads(succeed(capsys, "pull", f"{REPO}@v1", "--json"))
    assert pulled["commit"] == pushed["commit"] and not pulled["up_to_date"]
    path = Path(succeed(capsys, "pull", REPO, "-q").strip())
    for name in ("config.json", "sae.safetensors"):
        assert (path / name).read_bytes() == (Path(run_folder) / name).read_bytes()
    assert succeed(capsys, "pull", REPO, "--out", str(tmp_path / "copy"), "-q").strip() == str(
        tmp_path / "copy"
    )
    assert fail(capsys, "pull", REPO, "--out", str(tmp_path / "copy"))[0] == 2

    assert REPO in succeed(capsys, "ls")
    assert json.loads(succeed(capsys, "ls", "--json"))["saes"][0]["commit"] == pushed["commit"]
    assert str(path) in succeed(capsys, "show", REPO)
    data = json.loads(succeed(capsys, "show", REPO, "--json"))
    assert data["config"]["sae"]["n_children"] == 4 and data["commit"] == pushed["commit"]
    assert "How to load" in succeed(capsys, "show", REPO, "--card")
    tree = json.loads(succeed(capsys, "decompose", REPO, "The town", "--json", "--no-progress"))
    assert tree["ref"] == {"ref": REPO, "revision": pushed["commit"]}


def test_a_hub_can_be_named_on_the_command_line(run_folder, capsys, tmp_path):
    other = str(tmp_path / "other")
    succeed(capsys, "push", run_folder, REPO, "--hub", other)
    assert succeed(capsys, "ls", "--remote", "--hub", other, "-q").split() == [REPO]
    assert fail(capsys, "pull", REPO)[0] == 3


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["pull", "me/tinny"], 3, "did you mean 'me/tiny'?"),
        (["pull", "me/tiny@v9"], 3, "no revision 'v9'"),
        (["pull", "me/tiny:layer_3"], 3, "no config.json in layer_3/"),
        (["pull", "not a ref"], 2, "names no SAE"),
        (["show", "./nowhere"], 3, "no config.json in nowhere"),
        (["decompose", "me/tinny", "x"], 3, "did you mean 'me/tiny'?"),
        (["push", "./nowhere", "me/tiny"], 3, "nowhere"),
        (["push", "RUN", "tiny"], 2, "expected org/name"),
        (["push", "RUN", "me/tiny", "--public"], 2, "private"),
        (["push", "RUN", "me/tiny", "--tag", "main"], 2, "cannot be a tag"),
        (["card", "./nowhere"], 3, "no config.json in nowhere"),
        (["card", "RUN", "--check"], 3, "no README.md"),
        (["card", "RUN", "--license", "My own!"], 2, "is no licence"),
    ],
)
def test_what_is_refused(run_folder, capsys, args, code, message):
    succeed(capsys, "push", run_folder, REPO)
    got, err = fail(capsys, *[run_folder if word == "RUN" else word for word in args])
    assert got == code and message in err and "Traceback" not in err


def test_a_flipped_byte_is_told(run_folder, capsys):
    weights = Path(run_folder) / "sae.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    code, err = fail(capsys, "decompose", run_folder, "The town")
    assert code == 6 and "sha256" in err


def test_card_is_written_kept_and_checked(run_folder, capsys):
    path = succeed(capsys, "card", run_folder, "--license", "apache-2.0").strip()
    text = Path(path).read_text()
    assert "license: apache-2.0" in text
    assert json.loads(succeed(capsys, "card", run_folder, "--check", "--json"))["checked"]
    succeed(capsys, "card", run_folder)
    assert Path(path).read_text() == text
    Path(path).write_text(text.replace("## Limits", "## Other"))
    code, err = fail(capsys, "card", run_folder, "--check")
    assert code == 9 and "Limits" in err
    Path(path).write_text("# My own words\n")
    code, err = fail(capsys, "card", run_folder)
    assert code == 2 and "would be lost" in err
    assert Path(path).read_text() == "# My own words\n"


def test_a_warning_is_one_line(run_folder, capsys, monkeypatch):
    import warnings

    def warn() -> list[str]:
        warnings.warn("look out", UserWarning, stacklevel=1)
        return ["gemma2-tiny-en/l3_hsae"]

    monkeypatch.setattr("hsae_hub.recipes.list_recipes", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        capsys.readouterr()
        assert run(["recipes", "ls"]) == 0
    assert capsys.readouterr().err == "warning: look out\n"


def test_doctor_never_shows_the_token(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setenv("HSAE_HUB", "https://me:hf_verysecret@hub.example")
    out = succeed(capsys, "doctor")
    assert "present" in out and "verysecret" not in out and "hub.example" in out
    data = json.loads(succeed(capsys, "doctor", "--json"))
    assert data["versions"]["torch"] == torch.__version__.partition("+")[0] or data["versions"]
    assert "verysecret" not in json.dumps(data)


def test_doctor_tells_whether_sparse_products_are_compiled(capsys, monkeypatch):
    for there, told in ((True, "compiled by numba"), (False, "pip install 'hsae-hub[fast]'")):
        monkeypatch.setattr("hsae_hub.ops.kernels.has_numba", lambda there=there: there)
        assert told in succeed(capsys, "doctor")


def test_a_collection_is_shown(run_folder, capsys, tmp_path):
    succeed(capsys, "push", run_folder, f"{REPO}:one")
    shown = succeed(capsys, "show", REPO)
    assert f"{REPO} at " in shown and "a collection of 1 SAEs" in shown
    assert f"{REPO}:one" in shown and "hsae, 256 × 80" in shown
    data = json.loads(succeed(capsys, "show", REPO, "--json"))
    assert list(data["manifest"]["saes"]) == ["one"]
    assert succeed(capsys, "show", REPO, "--card").startswith("---")
