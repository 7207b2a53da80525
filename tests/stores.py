"""Small stores of activations for tests: a recipe, the model loaded once, and rows as they lie on disk."""

import hashlib
import json

import torch
from safetensors.torch import load_file

from hsae_hub.activations import harvest
from hsae_hub.recipes import Recipe

LINES = [f"{i} sheep and {i * i % 97} goats went up hill {i % 7} to see a {i}." for i in range(90)]
DATA = {
    "train": [{"lines": LINES}, {"sample": 60}],
    "heldout_fraction": 0.1,
    "context_length": 12,
    "buffer_tokens": 5000,
    "batch_contexts": 8,
}
RECIPE = {
    "hookpoint": "model.layers.0",
    "data": DATA,
    "sae": {"architecture": "topk", "d_in": 256, "d_sae": 32, "k": 4},
    "train": {
        "steps": 20,
        "batch_size": 64,
        "lr": 1e-2,
        "warmup_steps": 2,
        "checkpoint_every": 5,
        "log_every": 5,
    },
    "eval": {"tokens": 64},
}
TOKENS = 1000


def recipe(**data) -> Recipe:
    """The recipe with changes of its data section."""
    return Recipe.model_validate(RECIPE | {"data": DATA | data})


def make(folder, *, data=None, **options):
    """A store of about six shards."""
    options = {"tokens": TOKENS, "shard_tokens": 180, "device": "cpu"} | options
    return harvest(recipe(**(data or {})), folder, **options)


def shards(folder) -> list[torch.Tensor]:
    return [load_file(path)["acts"] for path in sorted(folder.glob("*.safetensors"))]


def rows(folder) -> torch.Tensor:
    return torch.cat(shards(folder))


def in_order(rows: torch.Tensor) -> list[bytes]:
    """Every row as bytes, sorted: a multiset that can be compared."""
    return sorted(row.tobytes() for row in rows.contiguous().view(torch.uint8).numpy())


def content(folder) -> dict[str, str]:
    """Hash of every file below a folder, hidden ones included."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def edit(folder, change) -> None:
    """Changes the data of a `store.json`."""
    path = folder / "store.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
