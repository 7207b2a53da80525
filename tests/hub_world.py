"""Two hubs for the tests of the hub layer: a folder, and a server on loopback that the real client speaks to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from loopback import OWNER, LoopbackHub

from hsae_hub.architectures import SAE, build
from hsae_hub.artifact import (
    WEIGHTS,
    HookpointConfig,
    LatentTable,
    ModelConfig,
    TokensConfig,
    TrainingConfig,
    save_sae,
)
from hsae_hub.hub import Hub

REPO = "org/tiny"
TREE = {
    "architecture": "hsae",
    "d_in": 16,
    "n_parents": 8,
    "n_children": 4,
    "d_subspace": 2,
    "k": 3,
}
FLAT = {"architecture": "topk", "d_in": 16, "d_sae": 32, "k": 4}
CORE = {
    "schema": "hsae.eval.core/1",
    "command": "hsae eval run",
    "tokens": 20_000,
    "contexts": 80,
    "data": ["documentation that Python carries (pydoc_data.topics)"],
    "seed": 0,
    "model": {"id": "gemma2-tiny-en", "revision": None},
    "hookpoint": "layers.3",
    "saes": {
        "sae": {"explained_variance": 0.8125, "l0": 5.5, "dead_latents": 3, "ce_score": 0.95},
        "baseline": {"explained_variance": 0.75, "l0": 4.0, "dead_latents": 1, "ce_score": 0.9},
    },
}


def make_run(
    folder: Path,
    config: dict[str, Any] = TREE,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    baseline: bool = True,
    evaluated: bool = True,
) -> SAE[Any]:
    """A folder as training and evaluation leave it, with what must not be published in it."""
    sae = build(config, seed=seed).to(dtype)
    about: dict[str, Any] = {
        "model": ModelConfig(id="gemma2-tiny-en"),
        "hookpoint": HookpointConfig(
            path="model.layers.3", transformer_lens="blocks.3.hook_resid_post", hidden_states=4
        ),
        "tokens": TokensConfig(context_length=256),
        "training": TrainingConfig(
            recipe="gemma2-tiny-en/l3_hsae",
            seed=seed,
            steps=10,
            tokens=640,
            data=["documentation that Python carries (pydoc_data.topics)"],
            written_by="hsae-hub 0.1.0",
        ),
    }
    stats = LatentTable(torch.rand(sae.d_sae), torch.rand(sae.d_sae), 640)
    if baseline:
        save_sae(build(FLAT, seed=seed), folder / "baseline", **about)
    saved = save_sae(sae, folder, stats=stats, baseline="baseline" if baseline else None, **about)
    if evaluated:
        (folder / "eval").mkdir(exist_ok=True)
        (folder / "eval" / "core.json").write_text(
            json.dumps({**CORE, "weights": {"sae": saved.files[WEIGHTS].sha256}})
        )
    (folder / "recipe.yaml").write_text("hookpoint: model.layers.3\n")
    (folder / "SUMMARY.json").write_text(json.dumps({"steps": 10, "seconds": 90.0}))
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / ".env").write_text("HF_TOKEN=hf_secret\n")
    (folder / "weights.pt").write_bytes(b"\x80\x04.")
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "model.safetensors").write_bytes(b"old")
    return sae


PUBLISHED = {
    "README.md",
    "SUMMARY.json",
    "baseline/config.json",
    "baseline/sae.safetensors",
    "config.json",
    "eval/core.json",
    "recipe.yaml",
    "sae.safetensors",
    "stats.safetensors",
}
"""What a push of `make_run` brings to the hub."""


class World:
    """A hub, as its users and its operator see it."""

    kind = ""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path

    def hub(self, cache: str = "cache") -> Hub:
        """The hub as somebody with this cache sees it."""
        raise NotImplementedError

    def commits(self, repo: str = REPO) -> int:
        """Number of commits that were pushed."""
        raise NotImplementedError

    def files(self, repo: str = REPO) -> dict[str, bytes]:
        """Contents of the newest commit."""
        raise NotImplementedError

    def put(self, files: dict[str, bytes], repo: str = REPO) -> str:
        """Commits files behind the package's back."""
        raise NotImplementedError

    def damage(self, path: str, spoil: Callable[[bytes], bytes], repo: str = REPO) -> None:
        """Changes the stored bytes of a file of the newest commit, but not what the hub says of them."""
        raise NotImplementedError


class FolderWorld(World):
    kind = "folder"

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        self.root = tmp_path / "hub"

    def hub(self, cache: str = "cache") -> Hub:
        return Hub(self.root, cache_dir=self.tmp_path / cache)

    def newest(self, repo: str) -> dict[str, Any]:
        found = sorted((self.root / repo / "history").glob("*/commit.json"))
        return dict(json.loads(found[-1].read_text())) if found else {"number": 0, "files": {}}

    def commits(self, repo: str = REPO) -> int:
        return int(self.newest(repo)["number"])

    def files(self, repo: str = REPO) -> dict[str, bytes]:
        objects = self.root / repo / "objects"
        stored = self.newest(repo)["files"].items()
        return {path: (objects / file["sha256"]).read_bytes() for path, file in stored}

    def put(self, files: dict[str, bytes], repo: str = REPO) -> str:
        place = self.hub().place()
        if not (self.root / repo).exists():
            place.create(repo, private=True)
            return place.commit(repo, files, [], message="by hand", parent=None)
        head = place.resolve(repo, None)
        return place.commit(repo, files, [], message="by hand", parent=head)

    def damage(self, path: str, spoil: Callable[[bytes], bytes], repo: str = REPO) -> None:
        stored = self.root / repo / "objects" / self.newest(repo)["files"][path]["sha256"]
        stored.write_bytes(spoil(stored.read_bytes()))


class ServerWorld(World):
    kind = "server"

    def __init__(self, tmp_path: Path, server: LoopbackHub) -> None:
        super().__init__(tmp_path)
        self.server = server

    def hub(self, cache: str = "cache") -> Hub:
        return Hub(self.server.url, token=OWNER, cache_dir=self.tmp_path / cache)

    def commits(self, repo: str = REPO) -> int:
        return len(self.server.repos[repo].commits) - 1 if repo in self.server.repos else 0

    def files(self, repo: str = REPO) -> dict[str, bytes]:
        at = self.server.repos[repo]
        kept = at.commits[at.head].items()
        return {path: file.content for path, file in kept if path != ".gitattributes"}

    def put(self, files: dict[str, bytes], repo: str = REPO) -> str:
        if repo not in self.server.repos:
            self.server.create(repo, private=True)
        return self.server.put(repo, files)

    def damage(self, path: str, spoil: Callable[[bytes], bytes], repo: str = REPO) -> None:
        self.server.damage(repo, path, spoil)


def seed(world: World, folder: Path, repo: str = REPO, **options: Any) -> str:
    """Publishes a run, which is made if it is not there, behind the package's back; its commit."""
    if not folder.exists():
        make_run(folder, **options)
    files = {name: folder / name for name in PUBLISHED}
    return world.put({n: path.read_bytes() for n, path in files.items() if path.is_file()}, repo)


def left_over(cache: Path) -> list[Path]:
    """Parts of files that a pull has left."""
    return [*cache.rglob("*.incomplete"), *cache.rglob("*.partial"), *cache.rglob("*.shared")]
