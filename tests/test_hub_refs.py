"""How SAEs and hubs are named, and what no name may be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_world import REPO, make_run

import hsae_hub
from hsae_hub.errors import UsageError
from hsae_hub.hub import Hub, Ref, load
from hsae_hub.hub.locate import may_pull


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", Ref("org/name")),
        ("org/name@v1.0", Ref("org/name", "v1.0")),
        ("org/name@refs/pr/1", Ref("org/name", "refs/pr/1")),
        ("org/name:layer_3/mlp", Ref("org/name", None, "layer_3/mlp")),
        ("org/name@main:layer_3/", Ref("org/name", "main", "layer_3")),
        (" o-r.g/n_a-m.e ", Ref("o-r.g/n_a-m.e")),
        ("./runs/a", Ref(None, folder=Path("runs/a"))),
        ("../a", Ref(None, folder=Path("../a"))),
        (".", Ref(None, folder=Path("."))),
        ("/a/b", Ref(None, folder=Path("/a/b"))),
        ("~/a", Ref(None, folder=Path("~/a").expanduser())),
        (Path("a/b"), Ref(None, folder=Path("a/b"))),
    ],
)
def test_references_are_read(text: str | Path, expected: Ref) -> None:
    ref = Ref.parse(text)
    assert ref == expected
    if ref.repo:
        assert Ref.parse(str(ref)) == ref


def test_a_folder_with_a_config_goes_before_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Ref.parse("runs/a").repo == "runs/a"
    sae = make_run(tmp_path / "runs" / "a")
    assert Ref.parse("runs/a").folder == Path("runs/a")
    x = torch.randn(9, 16)  # few would be summed in another order by an SAE that does not learn
    assert torch.equal(load("runs/a")(x).sae_out, sae(x).sae_out)
    assert load("runs/a/baseline").info.ref == "runs/a/baseline"
    with pytest.raises(UsageError, match="is a folder; a pull takes org/name"):
        Hub(tmp_path / "hub").pull("runs/a")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gpt2", "organisation is missing"),
        ("", ""),
        ("a/b/c", ""),
        ("org/name@", ""),
        ("org/name@a..b", ""),
        ("org/name@../x", ""),
        ("org/name:", ""),
        ("org/name:../x", ""),
        ("org/name:/etc", ""),
        ("org/name:a/.git", ""),
        ("org/na--me", "letters, digits"),
        ("org/name.git", "letters, digits"),
        ("-org/name", ""),
        ("org/" + "n" * 100, "letters, digits"),
        ("https://huggingface.co/org/name", "an address is not needed"),
    ],
)
def test_what_is_no_reference_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        Ref.parse(text)
    assert why in caught.value.why and caught.value.code == 2


@pytest.mark.parametrize("name", ["a", "a/b/c", "org/na me", "org/..", "a:sub", "a@v1:sub"])
def test_what_is_no_repository_is_not_pushed_to(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"expected org/name|names a revision"):
        Hub(tmp_path).push(tmp_path, name)


@pytest.mark.parametrize("tag", ["main", "a b", "0" * 40, "../x", "", ".hidden", "a/b"])
def test_what_is_no_tag_is_refused(tmp_path: Path, tag: str) -> None:
    make_run(tmp_path / "run")
    with pytest.raises(UsageError, match="cannot be a tag"):
        Hub(tmp_path / "hub").push(tmp_path / "run", REPO, tag=tag)
    assert not (tmp_path / "hub").exists()


HOSTILE = """
../a.json  /a.json  a/../b.json  a\\b.json  C:/a.json  .a.json  a//b.json  a/.git/x.json  a\0.json  a\x1b.json  a?.json
x.py  x.pt  x.npz  x.bin  LICENSE.py
"""


@pytest.mark.parametrize("path", [*HOSTILE.split(), "a\n.json", "a .json/ b.json", ""])
def test_a_hostile_path_is_not_pulled(path: str) -> None:
    assert not may_pull(path)


def test_the_hub_is_named_by_argument_or_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HSAE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HSAE_HUB", str(tmp_path / "hub"))
    place = hsae_hub.Hub().place()
    assert place.name == str(tmp_path / "hub")
    assert place.cache.root.is_relative_to(tmp_path / "home")
    monkeypatch.delenv("HSAE_HUB")
    assert hsae_hub.Hub().place().name == "https://huggingface.co"
    assert Hub("http://127.0.0.1:1/").place().name == "http://127.0.0.1:1"
    with pytest.raises(UsageError, match=r"would go to http://hub\.lab unencrypted"):
        Hub("http://hub.lab", token="hf_x").place()
    with pytest.raises(UsageError, match="is no hub"):
        Hub("ftp://hub.lab").place()


def test_a_folder_hub_needs_no_client(tmp_path: Path) -> None:
    code = "import sys; from hsae_hub import Hub; Hub(sys.argv[1]).ls(); print('huggingface_hub' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
