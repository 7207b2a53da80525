"""Removing from this machine: what belongs to one SAE only, and nothing that another one needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_world import PUBLISHED, REPO, ServerWorld, World, make_run, seed

from hsae_hub.errors import NotFoundError, UsageError
from hsae_hub.hub import load

pytest_plugins = ("hub_fixtures",)

OTHER = "org/same"


def on_disk(cache: Path) -> int:
    """Bytes of a cache's files that are no notes."""
    files = [p for p in cache.rglob("*") if p.is_file() and not p.is_symlink()]
    notes = ("hsae", "trees", "refs", ".locks", "CACHEDIR.TAG")
    return sum(
        p.stat().st_size
        for p in files
        if not set(notes) & set(p.parts)
        and p.suffix not in (".lock", ".refs")
        and not p.name.startswith(".")
    )


def test_a_repository_leaves_nothing_behind(world: World, tmp_path: Path) -> None:
    seed(world, tmp_path / "run")
    hub = world.hub()
    hub.pull(REPO)
    before = on_disk(tmp_path / "cache")
    removal = hub.plan_rm(REPO)
    assert abs(removal.size - before) < 200  # .gitattributes is no file of an SAE
    assert hub.ls() and on_disk(tmp_path / "cache") == before
    hub.rm(removal)
    assert hub.ls() == [] and on_disk(tmp_path / "cache") == 0
    assert not hub.place().cache.repo(REPO).exists()
    with pytest.raises(NotFoundError, match=f"{REPO} is not on this machine") as caught:
        hub.plan_rm(REPO)
    assert caught.value.code == 3
    assert not hub.pull(REPO).up_to_date


def test_a_revision_leaves_the_contents_that_another_one_has_too(
    world: World, tmp_path: Path
) -> None:
    old = seed(world, tmp_path / "run")
    hub = world.hub()
    hub.pull(REPO)
    new = world.put({"LICENSE": b"mine"})
    hub.pull(REPO)
    with pytest.raises(NotFoundError, match="v9 is not on this machine") as caught:
        hub.plan_rm(f"{REPO}@v9")
    assert old[:12] in caught.value.why
    removal = hub.plan_rm(f"{REPO}@{old[:9]}")
    assert removal.commits == (old,)
    if isinstance(world, ServerWorld):
        assert removal.size == 0 and removal.contents == ()  # everything is linked from the new one
    hub.rm(removal)
    assert [row.commit for row in hub.ls()] == [new]
    again = hub.pull(REPO, verify=True)
    assert again.up_to_date and load(REPO, hub=hub).d_in == 16
    assert hub.pull(f"{REPO}@{new}", offline=True).folder == again.folder


def test_one_sae_of_several_goes_alone(world: World, tmp_path: Path) -> None:
    for layer in (0, 1):
        make_run(tmp_path / f"run{layer}", seed=layer, baseline=False)
    world.put(
        {
            f"layer_{layer}/{name}": (tmp_path / f"run{layer}" / name).read_bytes()
            for layer in (0, 1)
            for name in PUBLISHED
            if (tmp_path / f"run{layer}" / name).is_file()
        }
    )
    hub = world.hub()
    for layer in (0, 1):
        hub.pull(f"{REPO}:layer_{layer}")
    hub.rm(hub.plan_rm(f"{REPO}:layer_0"))
    assert [row.ref for row in hub.ls()] == [f"{REPO}:layer_1"]
    assert hub.pull(f"{REPO}:layer_1", verify=True).up_to_date
    hub.rm(hub.plan_rm(f"{REPO}:layer_1"))
    assert hub.ls() == [] and on_disk(tmp_path / "cache") == 0


def test_a_content_that_two_repositories_share_stays_for_the_other(
    world: World, tmp_path: Path
) -> None:
    seed(world, tmp_path / "run")
    seed(world, tmp_path / "run", OTHER)
    hub = world.hub()
    hub.pull(REPO)
    hub.pull(OTHER)
    hub.rm(hub.plan_rm(REPO))
    assert [row.ref for row in hub.ls()] == [OTHER]
    assert hub.pull(OTHER, verify=True).up_to_date
    hub.rm(hub.plan_rm(OTHER))
    assert on_disk(tmp_path / "cache") == 0


def test_what_other_tools_have_pulled_is_not_ours(world: World, tmp_path: Path) -> None:
    snapshot = world.hub().place().cache.snapshot("org/model", "f" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"theirs")
    with pytest.raises(NotFoundError):
        world.hub().plan_rm("org/model")
    make_run(tmp_path / "run")
    with pytest.raises(UsageError, match="is a folder"):
        world.hub().plan_rm(str(tmp_path / "run"))
    assert (snapshot / "model.safetensors").is_file()
