"""Documents of any length, window by window, and activations without a language model."""

import gc
import json
from pathlib import Path
from typing import Any

import attach_oracle as oracle
import pytest
import torch
from safetensors.torch import save_file
from test_attach_decompose import TEXT, every

from hsae_hub.architectures import SAE, build
from hsae_hub.attach import Attached, Token, attach, decompose_activations
from hsae_hub.attach import decomposing as room
from hsae_hub.cli.main import run
from hsae_hub.errors import MisfitError, UsageError

pytest_plugins = ("attach_fixtures",)

LONG = "".join(f"In {1800 + i} the railway of the town was opened.\n" for i in range(8))
AT = LONG.index("In 1803")


def test_a_short_text_is_one_window(lm: Attached) -> None:
    (only,) = lm.decompose_windows(TEXT, 3, runner_ups=1)
    assert only == lm.decompose(TEXT, 3, runner_ups=1)
    assert list(lm.decompose_windows(iter([]))) == []


def test_each_window_is_read_on_its_own(lm: Attached) -> None:
    ids = lm.lm.tokenizer(LONG)["input_ids"]
    windows = list(lm.decompose_windows([LONG[:AT], LONG[AT:]], window=32))
    tokens = [token for window in windows for token in window.tokens]
    assert [token.position for token in tokens] == list(range(len(ids)))
    assert [token.id for token in tokens] == ids
    assert "".join(window.text for window in windows) == LONG
    second = windows[1]
    assert not any(token.special for token in second.tokens) and len(second.tokens) == 31
    alone = lm.decompose(second.text)
    assert [t.id for t in alone.tokens[1:]] == [t.id for t in second.tokens]
    for token, same in zip(second.tokens, alone.tokens[1:], strict=True):
        assert [f.id for f in every(token)] == [f.id for f in every(same)]
        assert token.explained == pytest.approx(same.explained, abs=1e-5)
    for window in (1, 1025):
        with pytest.raises(UsageError, match="more than 1 and at most 1024"):
            list(lm.decompose_windows(LONG, window=window))


def tokens_alive(objects: list[Any]) -> int:
    return sum(type(each) is Token for each in objects)


def test_memory_does_not_grow_with_the_document(
    lm: Attached, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    real = room.read_activations

    def read(*args: Any) -> Any:
        widths.append(args[2].shape[1])
        return real(*args)

    monkeypatch.setattr(room, "read_activations", read)
    others, held = tokens_alive(gc.get_objects()), []
    for window in lm.decompose_windows([LONG] * 3, 2, window=48):
        gc.collect()  # what only the collector can free is not held by anybody
        alive = gc.get_objects()
        assert tokens_alive(alive) == others + len(window.tokens)
        held.append(sum(each.nbytes for each in alive if type(each) is torch.Tensor))
        del alive, window
    assert len(held) > 5 and max(widths) == 48
    assert max(held[1:]) <= held[0]


def test_saved_activations_need_no_model(lm: Attached, sae: SAE[Any]) -> None:
    found = lm.decompose(TEXT)
    ids = torch.tensor([[token.id for token in found.tokens]])
    x = room.read_activations(lm.lm, lm.hookpoint, ids, torch.ones_like(ids))[0]
    words = [token.text for token in found.tokens[1:]]
    alone = decompose_activations(sae, x[1:], words, first=1)
    assert (alone.model, alone.hookpoint) == ("gemma2-tiny-en", "model.layers.3")
    for token, same in zip(alone.tokens, found.tokens[1:], strict=True):
        assert token.features == same.features and token.text == same.text
        assert (token.position, token.id) == (same.position, -1)
    bare = decompose_activations(build(oracle.TOPK, seed=0), x[1:3], top=2)
    assert [t.text for t in bare.tokens] == ["", ""] and bare.sae == "topk 96"
    with pytest.raises(MisfitError, match="width 256 but the activations have width 8"):
        decompose_activations(sae, x[:, :8])
    with pytest.raises(UsageError, match="1 texts of tokens for 2 activations"):
        decompose_activations(sae, x[:2], ["a"])


def test_every_form_shows_shares_runner_ups_and_what_is_left(lm: Attached) -> None:
    found = lm.decompose(TEXT, 2, runner_ups=1)
    lines = found.to_jsonl().splitlines()
    assert [json.loads(line)["position"] for line in lines] == list(range(len(found.tokens)))
    assert json.loads(lines[2])["features"][0]["runner_ups"][0]["act"]
    rows = found.to_table().splitlines()
    token = found.tokens[1]
    first = token.features[0]
    assert rows[0].split() == ["position", "token", "feature", "act", "share", "loss", "without"]
    numbers = [f"{each:.4f}" for each in (first.act, first.share, first.leave_one_out)]
    assert rows[1].split()[2:] == [first.id, *numbers]
    assert rows[3].split()[2:4] == [first.runner_ups[0].id, "unused"]
    assert rows[7].split()[2:] == ["unexplained", f"{token.unexplained:.4f}"]


def test_flat_saes_have_the_same_forms_without_children(lm: Attached) -> None:
    flat = attach(build(oracle.TOPK, seed=0), lm.lm, hookpoint="3")
    found = flat.decompose(TEXT, 2, runner_ups=2)
    assert len(found.to_table().splitlines()) == 1 + 3 * (len(found.tokens) - 1)
    assert "unused" not in found.to_table() and "children" not in found.to_html()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    oracle.saved_sae(tmp_path / "sae")
    x = torch.randn(40, 256, generator=torch.Generator().manual_seed(0))
    save_file({"acts": x}, tmp_path / "shard.safetensors")
    save_file({"acts": x[:2]}, tmp_path / "named.safetensors", {"tokens": '["The", " town"]'})
    save_file({"acts": x[:2]}, tmp_path / "misnamed.safetensors", {"tokens": '["The"]'})
    save_file({"acts": x[0]}, tmp_path / "flat.safetensors")
    save_file({"other": x[:2]}, tmp_path / "other.safetensors")
    save_file({"acts": x[:2] / 0}, tmp_path / "inf.safetensors")
    (tmp_path / "none.safetensors").write_bytes(b"\0" * 64)
    return tmp_path


def test_the_command_reads_activations(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hsae_hub.cli.decompose._ROWS", 16)

    def call(name: str, *more: str) -> tuple[int, str, str]:
        code = run(
            ["decompose", str(folder / "sae"), "--acts", str(folder / f"{name}.safetensors"), *more]
        )
        return code, *capsys.readouterr()

    code, out, _ = call("shard", "--format", "jsonl", "--top", "1")
    positions = [json.loads(line)["position"] for line in out.splitlines()]
    assert code == 0 and positions == list(range(40))
    assert "39 ''" in call("shard", "--token", "last")[1]
    assert "'The'" in call("named")[1] and "' town'" in call("named", "--token", "1")[1]
    data = json.loads(call("named", "--json")[1])
    assert data["text"] == "The town" and len(data["tokens"]) == 2
    for name, wanted, said in [
        ("misnamed", 6, "not a list of 2 texts"),
        ("flat", 6, "expected floats [tokens, d]"),
        ("other", 6, "no tensor 'acts', but other"),
        ("inf", 6, "not finite"),
        ("none", 2, "cannot be read"),
        ("nowhere", 2, "cannot be read"),
    ]:
        code, _, err = call(name)
        assert code == wanted and said in err, name
