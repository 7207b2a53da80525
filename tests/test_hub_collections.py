"""Several SAEs in one repository: published together or one by one, each pulled alone, the manifest checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_world import FLAT, PUBLISHED, REPO, TREE, FolderWorld, ServerWorld, World, make_run

from hsae_hub.architectures import build
from hsae_hub.artifact import WEIGHTS, Manifest, read_manifest, save_sae, sha256_file
from hsae_hub.card import CARD, check_card
from hsae_hub.errors import ConflictError, CorruptError, NotFoundError, UsageError
from hsae_hub.hub import Shown, ShownCollection, load

pytest_plugins = ("hub_fixtures",)
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's

OF_ONE = PUBLISHED - {CARD}


def make_sweep(folder: Path, *layers: int) -> None:
    for layer in layers:
        config = TREE if layer % 2 else FLAT
        make_run(folder / f"layer_{layer}", config, seed=layer, baseline=layer == 3)


def manifest(world: World) -> Manifest:
    return Manifest.model_validate_json(world.files()["config.json"])


def test_a_folder_of_runs_becomes_a_collection(world: World, tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", 3, 4)
    (tmp_path / "runs" / "unfinished").mkdir()
    pushed = world.hub().push(tmp_path / "runs", REPO, tag="v1")
    assert world.commits() == 1
    assert pushed.saes == (f"{REPO}:layer_3", f"{REPO}:layer_4")
    assert pushed.plan.left_out == ("unfinished/",)
    files = world.files()
    assert {p for p in files if p.startswith("layer_3/")} == {f"layer_3/{p}" for p in OF_ONE}
    assert {p for p in files if "/" not in p} == {"config.json", CARD}
    listed = manifest(world).saes
    assert {n: (m.architecture, m.d_in, m.d_sae) for n, m in listed.items()} == {
        "layer_3": ("hsae", 16, 40),
        "layer_4": ("topk", 16, 32),
    }
    for name, member in listed.items():
        for path, info in {"config.json": member.config, **member.files}.items():
            local = tmp_path / "runs" / name / path
            assert (info.sha256, info.size) == (sha256_file(local), local.stat().st_size)
    assert "baseline/sae.safetensors" in listed["layer_3"].files
    again = world.hub().push(tmp_path / "runs", REPO)
    assert not again.changed and world.commits() == 1


def test_one_sae_of_a_collection_is_pulled_alone(world: World, tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", 3, 4)
    world.hub().push(tmp_path / "runs", REPO, tag="v1")
    hub = world.hub("another")
    pulled = hub.pull(f"{REPO}@v1:layer_4")
    assert pulled.folder.name == "layer_4"
    assert all(path.startswith("layer_4/") for path in pulled.files)
    x = torch.randn(3, 16)
    here = load(tmp_path / "runs" / "layer_4")
    assert torch.equal(load(f"{REPO}:layer_4", hub=hub)(x).sae_out, here(x).sae_out)
    assert hub.pull(f"{REPO}@v1:layer_4").up_to_date
    assert [row.ref for row in hub.ls()] == [f"{REPO}:layer_4"]
    with pytest.raises(NotFoundError, match=f"{REPO} is a collection of 2 SAEs") as caught:
        hub.pull(REPO)
    assert caught.value.fix.splitlines()[0] == f"hsae pull {REPO}:layer_3"
    with pytest.raises(NotFoundError, match="is a collection"):
        load(REPO, hub=hub)
    with pytest.raises(NotFoundError, match="layer_5"):
        hub.pull(f"{REPO}:layer_5")


def test_a_collection_is_looked_at(world: World, tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", 3, 4)
    world.hub().push(tmp_path / "runs", REPO)
    shown = world.hub("another").show(REPO)
    assert isinstance(shown, ShownCollection)
    assert list(shown.manifest.saes) == ["layer_3", "layer_4"]
    assert shown.card is not None
    assert REPO in shown.card
    one = world.hub("another").show(f"{REPO}:layer_4")
    assert isinstance(one, Shown)
    assert one.config.sae.shape().d_sae == shown.manifest.saes["layer_4"].d_sae


def test_adding_one_keeps_the_others(world: World, tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", 3, 4)
    world.hub().push(tmp_path / "runs", REPO, license="mit")
    before = world.files()
    make_sweep(tmp_path / "more", 5)
    pushed = world.hub("another").push(tmp_path / "more" / "layer_5", f"{REPO}:extra")
    assert pushed.saes == (f"{REPO}:extra",) and pushed.plan.remove == pushed.plan.stays == ()
    assert set(pushed.plan.change) == {"config.json", CARD}
    files = world.files()
    assert {p: files[p] for p in before if p not in ("config.json", CARD)} == {
        p: c for p, c in before.items() if p not in ("config.json", CARD)
    }
    assert list(manifest(world).saes) == ["extra", "layer_3", "layer_4"]
    card = files[CARD].decode()
    assert check_card(card) == [] and "license: mit" in card
    rows = [line for line in card.splitlines() if line.startswith("| layer_3 ")]
    assert "0.8125" in rows[0]  # of an SAE that is not on this machine
    whole = world.hub("third")
    (tmp_path / "more" / "layer_5").rename(tmp_path / "runs" / "extra")
    assert not whole.push(tmp_path / "runs", REPO).changed  # the same card, wherever it was written


def test_what_is_replaced_or_pruned(world: World, tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", 3, 4)
    world.hub().push(tmp_path / "runs", REPO)
    world.put({"layer_3/by-hand.md": b"mine", "LICENSE": b"MIT"})
    make_run(tmp_path / "new" / "layer_4", TREE, seed=9, baseline=False, evaluated=False)
    pushed = world.hub().push(tmp_path / "new", REPO)
    assert pushed.plan.stays == ("layer_4/eval/core.json",)
    assert manifest(world).saes["layer_4"].architecture == "hsae"
    pruned = world.hub().push(tmp_path / "new", REPO, prune=True)
    assert set(pruned.plan.remove) == {f"layer_3/{p}" for p in OF_ONE} | {"layer_4/eval/core.json"}
    assert list(manifest(world).saes) == ["layer_4"]
    assert {p for p in world.files() if not p.startswith("layer_4/")} == {
        "config.json", CARD, "LICENSE", "layer_3/by-hand.md"
    }  # fmt: skip


def test_a_pruning_push_of_one_keeps_the_others(world: World, tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", 3, 4)
    world.hub().push(tmp_path / "runs", REPO)
    make_run(tmp_path / "new", seed=9, baseline=False)
    pushed = world.hub().push(tmp_path / "new", f"{REPO}:layer_3", prune=True)
    assert set(pushed.plan.remove) == {
        "layer_3/baseline/config.json",
        "layer_3/baseline/sae.safetensors",
    }
    assert list(manifest(world).saes) == ["layer_3", "layer_4"]


def test_a_single_sae_and_a_collection_do_not_replace_each_other(
    world: World, tmp_path: Path
) -> None:
    make_sweep(tmp_path / "runs", 3, 4)
    make_run(tmp_path / "run")
    world.hub().push(tmp_path / "run", "org/one")
    world.hub().push(tmp_path / "runs", REPO)
    with pytest.raises(UsageError, match="org/one holds a single SAE"):
        world.hub().push(tmp_path / "runs", "org/one")
    with pytest.raises(UsageError, match=f"{REPO} is a collection") as caught:
        world.hub().push(tmp_path / "run", REPO)
    assert f"{REPO}:NAME" in caught.value.fix
    world.put({"config.json": b'{"model_type": "gemma2"}'}, "org/model")
    for folder in ("run", "runs"):
        with pytest.raises(UsageError, match="holds something else than SAEs"):
            world.hub().push(tmp_path / folder, "org/model")
    assert world.commits() == world.commits("org/one") == world.commits("org/model") == 1


def test_the_saes_of_one_run_are_published_side_by_side(world: World, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "k8-seed0"
    make_run(run, seed=0)
    beside = save_sae(build(FLAT, seed=7), run / "k16")
    (run / "resolved.yaml").write_text(yaml.safe_dump({"also": {"k16": {"k": 16}}}))
    core = json.loads((run / "eval" / "core.json").read_text())
    core["weights"]["k16"] = beside.files[WEIGHTS].sha256
    core["saes"]["k16"] = {"explained_variance": 0.625}
    (run / "eval" / "core.json").write_text(json.dumps(core))
    pushed = world.hub().push(tmp_path / "runs", REPO)
    assert pushed.saes == (f"{REPO}:k16-seed0", f"{REPO}:k8-seed0")
    report = json.loads(world.files()["k16-seed0/eval/core.json"])
    assert report["saes"] == {"sae": {"explained_variance": 0.625}}
    assert report["weights"] == {"sae": beside.files[WEIGHTS].sha256}
    assert "k16-seed0/resolved.yaml" in world.files()
    rows = [r for r in world.files()[CARD].decode().splitlines() if r.startswith("| k16-seed0 ")]
    assert "0.625" in rows[0]
    single = world.hub().push(run, "org/one")
    assert "k16/" in single.plan.left_out
    assert not world.hub("another").push(run / "k16", f"{REPO}:k16-seed0").changed


def spoilt(text: bytes, change: Any) -> bytes:
    data = json.loads(text)
    change(data)
    return json.dumps(data).encode()


FILE = {"sha256": "0" * 64, "size": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["saes"]["layer_4"]["files"][WEIGHTS].update(sha256="0" * 64), "is not the file"),
        (lambda d: d["saes"]["layer_4"]["config"].update(size=7), "is not the file"),
        (lambda d: d["saes"]["layer_4"]["files"].update({"a.safetensors": FILE}), "is not the file"),
        (lambda d: d.update(format_version=2), "reads up to 1"),
        (lambda d: d.update(extra=1), "extra: unknown key"),
        (lambda d: d["saes"].update({"../x": d["saes"]["layer_4"]}), "pattern"),
        (lambda d: d["saes"]["layer_4"]["files"].update({"../up.safetensors": FILE}), "pattern"),
        (lambda d: d["saes"]["layer_4"]["files"][WEIGHTS].update(size=-1), "greater than 0"),
        (lambda d: d.update(saes={}), "at least 1"),
    ],
)  # fmt: skip
def test_a_manifest_that_lies_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    world = FolderWorld(tmp_path)
    make_sweep(tmp_path / "runs", 4)
    world.hub().push(tmp_path / "runs", REPO)
    world.put({"config.json": spoilt(world.files()["config.json"], change)})
    hub = world.hub("another")
    with pytest.raises(CorruptError, match=message):
        hub.pull(f"{REPO}:layer_4")
    kept = hub.place().cache.root
    assert not list(kept.rglob("*.safetensors"))  # told before any weight moved


def test_an_sae_that_was_damaged_on_the_hub_leaves_the_list(world: World, tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", 3, 4)
    world.hub().push(tmp_path / "runs", REPO)
    world.put({"layer_3/config.json": b"{}"})
    make_sweep(tmp_path / "more", 5)
    world.hub().push(tmp_path / "more", REPO)
    assert list(manifest(world).saes) == ["layer_4", "layer_5"]


def test_a_manifest_is_bounded(tmp_path: Path) -> None:
    make_sweep(tmp_path, 4)
    text = (tmp_path / "layer_4" / "config.json").read_text()
    assert read_manifest(tmp_path / "layer_4") is None
    (tmp_path / "config.json").write_text(text + " " * (1 << 20))
    with pytest.raises(CorruptError, match="expected at most 1 MiB"):
        read_manifest(tmp_path)
    member = {"architecture": "x", "d_in": 1, "d_sae": 1,
              "config": {"sha256": "0" * 64, "size": 1},
              "files": {"a.safetensors": FILE}}  # fmt: skip
    saes = {f"s{n}": member for n in range(1001)}
    with pytest.raises(ValueError, match="at most 1000"):
        Manifest.model_validate({"format_version": 1, "kind": "collection", "saes": saes})


def test_who_adds_at_the_same_moment_loses_whole(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sweep(tmp_path / "runs", 3, 4)
    world.hub().push(tmp_path / "runs", REPO)
    make_sweep(tmp_path / "more", 5)
    hub = world.hub()
    place = hub.place()
    head = place.resolve(REPO, None)
    world.put({"images.md": b"in between"})
    monkeypatch.setattr(place, "resolve", lambda repo, revision: head)
    monkeypatch.setattr(hub, "place", lambda: place)
    with pytest.raises(ConflictError):
        hub.push(tmp_path / "more", REPO)
    assert not [p for p in world.files() if p.startswith("layer_5/")]
    assert list(manifest(world).saes) == ["layer_3", "layer_4"]


@pytest.mark.parametrize("name", ["-x", "a b", ".hidden", "a/b", "", "x" * 81])
def test_a_name_that_cannot_be_a_folder_is_refused(world: World, tmp_path: Path, name: str) -> None:
    make_run(tmp_path / "run")
    with pytest.raises(UsageError, match=r"cannot be the name|not the name"):
        world.hub().push(tmp_path / "run", f"{REPO}:{name}")


def test_three_hundred_files_are_one_commit(world: World, tmp_path: Path) -> None:
    world.put({"old.md": b"first"})
    place = world.hub().place()
    head = place.resolve(REPO, None)
    files: dict[str, Path | bytes] = {
        f"s{n}/{k}.json": b"%d" % n for n in range(60) for k in range(4)
    }
    files |= {f"s{n}/sae.safetensors": b"weights %d" % n for n in range(60)}
    commit = place.commit(REPO, files, ["old.md"], message="all", parent=head)
    assert place.resolve(REPO, None) == commit and world.commits() == 2
    assert set(world.files()) == set(files)
    if isinstance(world, ServerWorld):
        assert sum("/commit/" in r for r in world.server.requests) == 1
