"""Publishing and pulling: every guarantee on a folder and on a server for the real client."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_world import FLAT, PUBLISHED, REPO, TREE, ServerWorld, World, make_run
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from hsae_hub.artifact import sha256_file
from hsae_hub.card import CARD
from hsae_hub.errors import (
    CheckFailedError,
    ConflictError,
    CorruptError,
    NotFoundError,
    UsageError,
)
from hsae_hub.hub import load

pytest_plugins = ("hub_fixtures",)
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("config", [TREE, FLAT], ids=lambda c: c["architecture"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_sae_comes_back_bit_for_bit(
    world: World, tmp_path: Path, config: dict[str, Any], dtype: torch.dtype
) -> None:
    sae = make_run(tmp_path / "run", config, dtype=dtype)
    world.hub().push(tmp_path / "run", REPO)
    back = load(REPO, hub=world.hub("another"))
    x = torch.randn(5, 16)
    torch.testing.assert_close(back(x).sae_out, sae(x).sae_out, rtol=0, atol=0)
    assert back.info.ref == REPO
    assert back.info.config.hookpoint.path == "model.layers.3"
    assert back.info.stats.tokens == 640
    assert load(REPO, hub=world.hub("another"), dtype=torch.float64).dtype == torch.float64


def test_a_pull_brings_every_file_and_a_second_one_nothing(world: World, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    pushed = world.hub().push(tmp_path / "run", REPO)
    told: list[tuple[int, int]] = []
    pulled = world.hub("another").pull(REPO, on_progress=lambda *at: told.append(at))
    assert pulled.commit == pushed.commit and pulled.repo == REPO
    assert set(pulled.files) - {".gitattributes"} == PUBLISHED
    assert not pulled.up_to_date and not pulled.offline
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (pulled.size, pulled.size)
    for name in PUBLISHED - {CARD}:
        assert (pulled.folder / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    again = world.hub("another").pull(REPO)
    assert again.up_to_date and again.folder == pulled.folder


def test_only_what_belongs_to_an_sae_is_published(world: World, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    pushed = world.hub().push(tmp_path / "run", REPO)
    assert set(pushed.files) == set(world.files()) == PUBLISHED
    assert set(pushed.plan.left_out) == {".env", "weights.pt", "checkpoints/", "metrics.jsonl"}
    assert not any(b"hf_secret" in content for content in world.files().values())


@pytest.mark.parametrize("name", ["recipe.yaml", "sae.safetensors", "eval", "baseline"])
def test_a_symbolic_link_is_refused(world: World, tmp_path: Path, name: str) -> None:
    make_run(tmp_path / "run")
    real = (tmp_path / "run" / name).rename(tmp_path / "elsewhere")
    (tmp_path / "run" / name).symlink_to(real)
    with pytest.raises(UsageError, match=f"{name}.* is a symbolic link"):
        world.hub().push(tmp_path / "run", REPO)
    assert world.commits() == 0


def test_a_dry_run_writes_nothing(world: World, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    plan = world.hub().push(tmp_path / "run", REPO, dry_run=True)
    assert set(plan.plan.add) == PUBLISHED and not plan.changed and plan.commit is None
    assert plan.plan.size > 4000
    assert not (tmp_path / "hub").exists()
    assert not (tmp_path / "run" / CARD).exists()
    if isinstance(world, ServerWorld):
        assert world.server.wrote() == []


def test_an_unchanged_push_makes_no_commit(world: World, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    first = world.hub().push(tmp_path / "run", REPO)
    second = world.hub().push(tmp_path / "run", REPO)
    assert first.changed and not second.changed
    assert second.commit == first.commit and world.commits() == 1
    assert set(second.plan.same) == PUBLISHED and second.plan.size == 0


def test_a_push_is_one_commit_and_takes_away_what_the_folder_no_longer_has_if_told_to(
    world: World, tmp_path: Path
) -> None:
    make_run(tmp_path / "run")
    world.hub().push(tmp_path / "run", REPO)
    world.put({"LICENSE": b"by hand", "images.md": b"by hand"})
    make_run(tmp_path / "other", seed=1, baseline=False, evaluated=False)
    gone = {"eval/core.json", "baseline/config.json", "baseline/sae.safetensors"}
    pushed = world.hub().push(tmp_path / "other", REPO)
    assert world.commits() == 3
    assert pushed.plan.remove == () and set(pushed.plan.stays) == gone
    changed = {"README.md", "config.json", "sae.safetensors", "stats.safetensors"}
    assert set(pushed.plan.change) == changed
    assert set(world.files()) == PUBLISHED | {"LICENSE", "images.md"}
    pruned = world.hub().push(tmp_path / "other", REPO, prune=True)
    assert world.commits() == 4 and pruned.changed
    assert set(pruned.plan.remove) == gone and pruned.plan.stays == ()
    assert set(world.files()) == (PUBLISHED - gone) | {"LICENSE", "images.md"}


def test_a_tag_stays_where_it_is(world: World, tmp_path: Path) -> None:
    old = make_run(tmp_path / "run")
    first = world.hub().push(tmp_path / "run", REPO, tag="v1")
    assert world.hub().push(tmp_path / "run", REPO, tag="v1").commit == first.commit
    make_run(tmp_path / "other", seed=1)
    with pytest.raises(ConflictError, match="tag v1 of org/tiny names"):
        world.hub().push(tmp_path / "other", REPO, tag="v1")
    assert world.commits() == 1
    second = world.hub().push(tmp_path / "other", REPO, tag="v2")
    fresh = world.hub("another")
    assert fresh.pull(f"{REPO}@v1").commit == first.commit
    assert fresh.pull(REPO).commit == second.commit
    assert fresh.pull(f"{REPO}@{first.commit}").up_to_date
    x = torch.randn(9, 16)  # few would be summed in another order by an SAE that does not learn
    assert torch.equal(load(f"{REPO}@v1", hub=fresh)(x).sae_out, old(x).sae_out)
    with pytest.raises(ConflictError):
        world.hub().place().tag(REPO, "v1", str(second.commit))


def test_who_comes_second_changes_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run")
    first = world.hub().push(tmp_path / "run", REPO)
    make_run(tmp_path / "other", seed=1)
    world.put({"images.md": b"in between"})
    place = world.hub().place()
    with pytest.raises(ConflictError, match=r"changed on .* since it was read") as caught:
        place.commit(REPO, {"a.md": b"late"}, [], message="late", parent=first.commit)
    assert caught.value.code == 10
    hub = world.hub()
    place = hub.place()
    monkeypatch.setattr(place, "resolve", lambda repo, revision: first.commit)
    monkeypatch.setattr(hub, "place", lambda: place)
    with pytest.raises(ConflictError):
        hub.push(tmp_path / "other", REPO)
    assert world.commits() == 2 and "a.md" not in world.files()


def test_a_repository_is_private_unless_it_is_said_to_be_public(
    world: World, tmp_path: Path
) -> None:
    make_run(tmp_path / "run")
    assert world.hub().push(tmp_path / "run", REPO).private
    assert world.hub().place().is_private(REPO)
    with pytest.raises(UsageError, match=r"is private .* a push does not change that"):
        world.hub().push(tmp_path / "run", REPO, public=True)
    with pytest.raises(UsageError, match="no licence is stated") as caught:
        world.hub().push(tmp_path / "run", "org/open", public=True)
    assert caught.value.fix.startswith("--license cc-by-4.0")
    world.hub().push(tmp_path / "run", "org/open", public=True, license="mit")
    assert not world.hub().place().is_private("org/open")
    with pytest.raises(UsageError, match=r"is public .* but this push is private"):
        world.hub().push(tmp_path / "run", "org/open")


@pytest.mark.parametrize("path", ["sae.safetensors", "baseline/sae.safetensors"])
@pytest.mark.parametrize("spoil", [flip, lambda data: data[:-8]], ids=["flipped", "truncated"])
def test_a_wrong_byte_is_refused_and_not_kept(
    world: World, tmp_path: Path, path: str, spoil: Any, no_waiting: list[float]
) -> None:
    make_run(tmp_path / "run")
    pushed = world.hub().push(tmp_path / "run", REPO)
    good = world.files()[path]
    world.damage(path, spoil)
    fresh = world.hub("another")
    with pytest.raises(CorruptError, match=f"{path} of org/tiny") as caught:
        fresh.pull(REPO)
    assert caught.value.code == 6
    kept = fresh.place().cache.snapshot(REPO, str(pushed.commit)) / path
    assert not kept.exists() and not kept.is_symlink()
    world.damage(path, lambda data: good)
    assert (fresh.pull(REPO).folder / path).read_bytes() == good


@pytest.mark.parametrize("spoil", [flip, lambda data: data[:-8]], ids=["flipped", "truncated"])
@pytest.mark.parametrize("path", ["sae.safetensors", "config.json"])
def test_a_copy_that_was_damaged_here_is_fetched_again(
    world: World, tmp_path: Path, path: str, spoil: Any
) -> None:
    make_run(tmp_path / "run")
    world.hub().push(tmp_path / "run", REPO)
    kept = world.hub("another").pull(REPO).folder / path
    good = kept.read_bytes()
    kept.write_bytes(spoil(good))
    pulled = world.hub("another").pull(REPO)
    assert not pulled.up_to_date and (pulled.folder / path).read_bytes() == good


def published(world: World, run: Path) -> dict[str, bytes]:
    names = [name for name in PUBLISHED if (run / name).is_file()]
    return {name: (run / name).read_bytes() for name in names}


def with_weights(files: dict[str, bytes], weights: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """The same repository with other weights, for which its config vouches."""
    content = to_bytes(weights)
    config = json.loads(files["config.json"])
    digest = hashlib.sha256(content).hexdigest()
    config["files"]["sae.safetensors"] = {"sha256": digest, "size": len(content)}
    return files | {"sae.safetensors": content, "config.json": json.dumps(config).encode()}


def test_weights_of_another_shape_are_refused_before_they_are_loaded(
    world: World, tmp_path: Path
) -> None:
    make_run(tmp_path / "run")
    weights = load_file(tmp_path / "run" / "sae.safetensors")
    weights["W_enc"] = weights["W_enc"][:, :4].contiguous()
    world.put(with_weights(published(world, tmp_path / "run"), weights))
    with pytest.raises(CorruptError, match=r"W_enc has shape \[16, 4\]") as caught:
        world.hub().pull(REPO)
    assert caught.value.code == 6


def test_a_weight_that_is_not_a_number_is_refused_on_both_ways(
    world: World, tmp_path: Path
) -> None:
    make_run(tmp_path / "run")
    weights = load_file(tmp_path / "run" / "sae.safetensors")
    weights["W_enc"][0, 0] = torch.nan
    files = with_weights(published(world, tmp_path / "run"), weights)
    for name, content in files.items():
        (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(CorruptError, match="1 of 128 values that are not finite"):
        world.hub().push(tmp_path / "run", REPO)
    assert world.commits() == 0
    world.put(files)
    with pytest.raises(CorruptError, match="not finite"):
        load(REPO, hub=world.hub())


def test_a_config_that_vouches_for_other_weights_is_refused(world: World, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    world.hub().push(tmp_path / "run", REPO)
    make_run(tmp_path / "other", seed=1)
    world.put({"sae.safetensors": (tmp_path / "other" / "sae.safetensors").read_bytes()})
    with pytest.raises(CorruptError, match=r"is not the file that config.json was written for"):
        world.hub("another").pull(REPO)
    with pytest.raises(CorruptError, match="sha256"):
        (tmp_path / "run" / "sae.safetensors").write_bytes(
            (tmp_path / "other" / "sae.safetensors").read_bytes()
        )
        world.hub().push(tmp_path / "run", REPO)


def test_what_is_not_there_is_named(world: World, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    world.hub().push(tmp_path / "run", REPO, tag="v1")
    hub = world.hub()
    hub.pull(REPO)
    with pytest.raises(NotFoundError, match=r"no repository org/tinny .*did you mean 'org/tiny'"):
        hub.pull("org/tinny")
    with pytest.raises(NotFoundError, match="no revision 'v2' in org/tiny"):
        hub.pull(f"{REPO}@v2")
    with pytest.raises(NotFoundError, match=f"no commit|no revision '{'0' * 40}'") as caught:
        hub.pull(f"{REPO}@{'0' * 40}")
    assert caught.value.code == 3
    with pytest.raises(NotFoundError, match=r"no config.json in base/ of org/tiny") as caught:
        hub.pull(f"{REPO}:base")
    assert "it has SAEs in: baseline" in caught.value.why
    assert caught.value.fix == "hsae pull org/tiny:baseline"
    with pytest.raises(NotFoundError, match=r"no SAE|saved SAE|no config"):
        hub.push(tmp_path / "nothing", REPO)


def test_one_sae_of_several_is_pulled_alone(world: World, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    files = published(world, tmp_path / "run")
    world.put({f"layer_{n}/{name}": content for n in (0, 1) for name, content in files.items()})
    with pytest.raises(NotFoundError, match=r"no config\.json at the root of org/tiny"):
        world.hub().pull(REPO)
    pulled = world.hub().pull(f"{REPO}:layer_1")
    assert pulled.folder.name == "layer_1"
    assert all(path.startswith("layer_1/") for path in pulled.files)
    assert load(f"{REPO}:layer_1/baseline", hub=world.hub()).d_sae == 32


def test_code_and_pickles_are_never_pulled(world: World, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    bad = {
        "model.py": b"print()",
        "weights.pt": b"\x80",
        "params.npz": b"PK",
        ".git/config": b"[core]",
        "eval/.hidden.json": b"{}",
    }
    world.put(published(world, tmp_path / "run") | bad)
    pulled = world.hub().pull(REPO)
    assert not set(pulled.files) & bad.keys()
    assert not any((pulled.folder / name).exists() for name in bad)


def test_a_card_keeps_the_notes_that_were_written_on_the_hub(world: World, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    world.hub().push(tmp_path / "run", REPO, license="apache-2.0")
    card = world.files()[CARD].decode()
    assert 'hsae.load("org/tiny")' in card
    begin = "<!-- hsae:notes -->\n"
    card = card.replace(begin, f"{begin}Written by *hand*.\n")
    world.put({CARD: card.encode()})
    make_run(tmp_path / "other", seed=1)
    world.hub().push(tmp_path / "other", REPO)
    card = world.files()[CARD].decode()
    assert "Written by *hand*." in card and "license: apache-2.0" in card
    assert sha256_file(tmp_path / "other" / "sae.safetensors") in card


def test_a_card_written_by_hand_is_published_if_it_lacks_nothing(
    world: World, tmp_path: Path
) -> None:
    make_run(tmp_path / "run")
    own = tmp_path / "run" / CARD
    own.write_text("# Mine\n[More Information Needed]\n")
    with pytest.raises(CheckFailedError, match="does not begin with metadata") as caught:
        world.hub().push(tmp_path / "run", REPO)
    assert caught.value.code == 9 and world.commits() == 0
    front = "library_name: hsae-hub\nlicense: mit\ntags: [sparse-autoencoder, hsae]\n"
    own.write_text(f"---\n{front}---\n# Mine\n")
    world.hub().push(tmp_path / "run", REPO)
    assert world.files()[CARD] == own.read_bytes()


def test_no_token_is_ever_said(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    make_run(tmp_path / "run")
    hub = world.hub()
    hub.push(tmp_path / "run", REPO)
    hub.pull(REPO)
    with pytest.raises(NotFoundError) as caught:
        hub.pull("org/nothing")
    said = caplog.text + repr(hub) + repr(hub.place()) + str(caught.value) + caught.value.why
    assert "hf_owner_token" not in said
