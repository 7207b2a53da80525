"""The card says what the run's files say, and no text of a user can make it say anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_world import FLAT, TREE, make_run

from hsae_hub.architectures import build
from hsae_hub.artifact import CONFIG, ModelConfig, TrainingConfig, save_sae, sha256_file
from hsae_hub.card import CARD, check_card, is_rendered, render_card
from hsae_hub.errors import CorruptError, NotFoundError, UsageError


def front(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    return dict(yaml.safe_load(card.split("---\n")[1]))


def section(card: str, name: str) -> str:
    return card.split(f"\n## {name}\n")[1].split("\n## ")[0]


def rows(text: str) -> dict[str, list[str]]:
    cells = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in cells}


def test_a_card_says_what_the_files_say(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / "env.json").write_text(
        json.dumps({"versions": {"torch": "2.13.0"}, "device": "cpu", "git_commit": "abc"})
    )
    (tmp_path / "run" / "resolved.yaml").write_text(
        "data:\n  train:\n  - dataset: wikimedia/wikipedia\n  - text: [/home/me/secret.txt]\n"
        "train:\n  lr: 0.002\n  batch_size: 1024\n"
    )
    card = render_card(tmp_path / "run", repo="org/tiny", license="apache-2.0")
    assert check_card(card) == [] and is_rendered(card)
    data = front(card)
    assert data["library_name"] == "hsae-hub" and data["license"] == "apache-2.0"
    assert data["datasets"] == ["wikimedia/wikipedia"] and data["language"] == ["en"]
    assert "base_model" not in data  # the embedded model is in no repository
    assert 'sae = hsae.load("org/tiny")' in card and "hsae pull org/tiny" in card
    reads = rows(section(card, "Where it reads the model"))
    assert reads["name in TransformerLens"] == ["blocks.3.hook_resid_post"]
    assert reads["index in hidden_states"] == ["4"]
    assert reads["BOS"] == ["every context begins with it"]
    measured = section(card, "What was measured")
    assert "20,000 held-out tokens of gemma2-tiny-en in 80 contexts, seed 0" in measured
    assert "\nhsae eval run\n" in measured
    assert rows(measured)["explained_variance"][:2] == ["0.8125", "0.75"]
    training = rows(section(card, "Training"))
    assert training["lr"] == ["0.002"] and training["batch_size"] == ["1,024"]
    assert training["steps"] == ["10"] and training["seed"] == ["0"]
    assert training["time"] == ["1.5 min, reading activations included"]
    assert training["written by"] == ["hsae-hub 0.1.0, torch 2.13.0"]
    assert "3 latents (7.5% of 40) never fired" in section(card, "Limits")
    assert sha256_file(tmp_path / "run" / "baseline" / "sae.safetensors") in section(card, "Files")
    assert "secret" not in card and str(tmp_path) not in card
    assert card.count("```bibtex") == 3


def test_the_hub_client_reads_its_metadata(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    make_run(tmp_path / "run")
    data = ModelCard(render_card(tmp_path / "run", repo="org/tiny")).data
    assert data.library_name == "hsae-hub" and "hsae" in data.tags
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found["explained_variance"] == 0.8125 and found["l0"] == 5.5


def test_what_was_not_measured_is_said_to_be_missing(tmp_path: Path) -> None:
    save_sae(build(FLAT), tmp_path / "bare")
    card = render_card(tmp_path / "bare")
    assert check_card(card) == []
    assert "Not measured" in section(card, "What was measured")
    assert "Not recorded" in section(card, "Where it reads the model")
    assert "Not recorded" in section(card, "Training")
    assert "Not recorded" in section(card, "Data")
    assert "How many latents are dead was not measured" in section(card, "Limits")
    assert front(card)["license"] == "unknown" and "not stated by its author" in card
    assert not {"model-index", "base_model", "datasets"} & front(card).keys()
    assert 'hsae.load("./bare")' in card and "hsae pull" not in card


def test_a_model_on_the_hub_is_named_as_base(tmp_path: Path) -> None:
    save_sae(build(TREE), tmp_path, model=ModelConfig(id="google/gemma-2-2b", revision="c5ebcd4"))
    card = render_card(tmp_path)
    assert front(card)["base_model"] == "google/gemma-2-2b"
    assert "It fits google/gemma-2-2b at this place only" in card
    assert rows(section(card, "Where it reads the model"))["its revision"] == ["c5ebcd4"]


def test_the_same_files_give_the_same_card(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    card = render_card(tmp_path / "run")
    (tmp_path / "run" / CARD).write_text(card)
    assert render_card(tmp_path / "run") == card


def test_what_was_written_by_hand_stays(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    card = render_card(tmp_path / "run", license="mit")
    begin = "<!-- hsae:notes -->\n"
    edited = card.replace(begin, f"{begin}\n## Mine\n\n*Kept*, `as it is`.\n")
    edited = edited.replace("## Limits", "## Lies")
    (tmp_path / "run" / CARD).write_text(edited)
    again = render_card(tmp_path / "run", repo="org/tiny")
    assert "\n## Mine\n\n*Kept*, `as it is`.\n" in again
    assert "## Limits" in again and "## Lies" not in again
    assert front(again)["license"] == "mit"
    (tmp_path / "run" / CARD).write_text(again)
    assert render_card(tmp_path / "run", repo="org/tiny") == again
    (tmp_path / "run" / CARD).unlink()
    assert "*Kept*" in render_card(tmp_path / "run", previous=edited)
    assert front(render_card(tmp_path / "run", previous=edited))["license"] == "mit"
    assert "*Kept*" not in render_card(tmp_path / "run")


EVIL = "x\n---\nlicense: evil\n---\n# H1 <script>alert(1)</script> | `a` ```sh\nrm -rf\n``` [l](j:k) {{ 1 }} <!-- "


def test_text_of_a_user_breaks_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    path = tmp_path / "run" / CONFIG
    config = json.loads(path.read_text())
    config["model"]["id"] = EVIL
    config["training"] |= {"recipe": EVIL, "data": [EVIL, "- x", "# y", "1. z"], "written_by": EVIL}
    config["hookpoint"] |= {"path": EVIL, "transformer_lens": EVIL}
    path.write_text(json.dumps(config))
    core = json.loads((tmp_path / "run" / "eval" / "core.json").read_text())
    core |= {"command": EVIL, "data": [EVIL], "model": {"id": EVIL, "revision": EVIL}, "seed": EVIL}
    core["saes"]["sae"][EVIL] = 1.0
    (tmp_path / "run" / "eval" / "core.json").write_text(json.dumps(core))
    (tmp_path / "run" / "env.json").write_text(json.dumps({"device": EVIL, "git_commit": EVIL}))
    card = render_card(tmp_path / "run")
    data = front(card)
    assert data["license"] == "unknown" and "base_model" not in data
    body = card.split("---\n", 2)[2]
    fences = [line for line in body.splitlines() if line.startswith("```")]
    assert fences == ["```python", "```", "```sh", "```", "```sh", "```"] + ["```bibtex", "```"] * 3
    outside = "".join(part for n, part in enumerate(body.split("\n```")) if n % 2 == 0)
    assert "<script>" not in outside.replace("\\<script\\>", "")
    assert [line for line in outside.splitlines() if line.startswith("# ")] == ["# run"]
    assert "\n---" not in body and "\n- \\- x\n- \\# y\n- 1\\. z\n" in body
    comments = outside.replace("\\<\\!-- ", "").count("<!--")
    assert comments == 4  # its own: the mark, the two markers, the hint


def test_a_card_that_lacks_something_is_told(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    card = render_card(tmp_path / "run")
    assert check_card("# no metadata") == ["it does not begin with metadata between two lines ---"]
    (problem,) = check_card("---\na: 1\nb: [unclosed\n---\n")
    assert problem.startswith("its metadata is not YAML: line 4 of it: ")
    assert check_card("---\n- a\n---\n") == ["its metadata is no mapping of keys to values"]
    assert check_card("---\ntitle: x\n---\n")[:3] == [
        "its metadata lacks library_name",
        "its metadata lacks license",
        "its metadata lacks tags",
    ]
    assert check_card(card.replace("\n## Limits\n", "\n## Else\n")) == [
        "it lacks the section 'Limits'"
    ]
    (problem,) = check_card(card.replace("<!-- /hsae:notes -->", "TODO\n<!-- /hsae:notes -->"))
    assert "is not filled in: TODO" in problem
    assert check_card(card.replace("- hsae\n", ""))[0] == "its tags lack hsae"


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        render_card(tmp_path)
    make_run(tmp_path / "run")
    with pytest.raises(UsageError, match="is no licence"):
        render_card(tmp_path / "run", license="My own: all\nrights")
    (tmp_path / "run" / "SUMMARY.json").write_text("{")
    with pytest.raises(CorruptError, match=r"SUMMARY\.json is not JSON"):
        render_card(tmp_path / "run")
    (tmp_path / "run" / "SUMMARY.json").write_text("[]")
    (tmp_path / "run" / "resolved.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(CorruptError, match=r"resolved\.yaml is not YAML"):
        render_card(tmp_path / "run")
    (tmp_path / "run" / "resolved.yaml").unlink()
    (tmp_path / "run" / CARD).write_bytes(b"\xff")
    assert check_card(render_card(tmp_path / "run")) == []


@pytest.mark.parametrize("value", [None, [], "x", {"saes": []}, {"saes": {"sae": {"l0": "x"}}}])
def test_a_report_of_another_form_counts_as_none(tmp_path: Path, value: Any) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / "eval" / "core.json").write_text(json.dumps(value))
    assert "Not measured" in section(render_card(tmp_path / "run"), "What was measured")


def test_training_tells_where_weights_come_from(tmp_path: Path) -> None:
    told = TrainingConfig(
        seed=7, steps=2, tokens=1_000_000, data=["one", "two"], written_by="hsae-hub 0.1.0"
    )
    save_sae(build(TREE), tmp_path, training=told)
    card = render_card(tmp_path)
    assert rows(section(card, "Training"))["activations seen"] == ["1,000,000, repeats counted"]
    assert "- one\n- two\n" in section(card, "Data")


def test_a_report_about_other_weights_is_not_believed(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    assert "0.8125" in render_card(tmp_path / "run")
    measured = (tmp_path / "run" / "eval" / "core.json").read_text()
    make_run(tmp_path / "run", seed=1)
    (tmp_path / "run" / "eval" / "core.json").write_text(measured)
    assert "0.8125" not in render_card(tmp_path / "run")
