"""Commands that need no tensors load no torch, on a folder and on a server: they start at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_world import REPO, FolderWorld, ServerWorld, World, seed
from loopback import OWNER

pytest_plugins = ("hub_fixtures",)

HEAVY = ["torch", "transformers", "nnsight", "datasets", "numpy", "pyarrow", "safetensors"]
FOREIGN = "org/foreign"
COMMANDS = {
    f"pull {REPO} --dry-run": 0,
    f"pull {REPO}": 0,
    f"pull {REPO} --quiet": 0,  # warm now
    f"pull {REPO} --verify": 0,
    "pull org/tinny": 3,
    f"pull {FOREIGN}": 2,
    f"show {REPO}": 0,
    "ls": 0,
    "ls --remote": 0,
    "search tiny": 0,
    f"rm {REPO} --dry-run": 0,
    "recipes ls": 0,
    "recipes show gemma2-tiny-en/l3_hsae --resolved": 0,
    "suite ls": 0,
}
"""Exit codes by command, in the order in which they are run."""
READING = ["feature tiny 3", "find tiny the"]
SCRIPT = f"""
import json, sys
from hsae_hub.cli.main import run

told = {{}}
for words in {list(COMMANDS)}:
    told[words] = (run(words.split()), [name for name in {HEAVY} if name in sys.modules])

from hsae_hub.architectures import config_class, list_architectures
from hsae_hub.hub import Hub

every = [config_class(name) for name in list_architectures()]
told["configs"] = (len(every) > 10, [name for name in {HEAVY} if name in sys.modules])
told["verify"] = (Hub().verify("{REPO}").passed, "torch" in sys.modules)
for words in {READING}:  # tables are read with pyarrow
    told[words] = (run(words.split()) == 0, "torch" in sys.modules)
json.dump(told, open(sys.argv[1], "w"))
"""


def environment(world: World, tmp_path: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    kept |= {"HF_HOME": str(tmp_path / "hf"), "HSAE_HOME": str(tmp_path / "home")}
    if isinstance(world, FolderWorld):
        return kept | {"HSAE_HUB": str(world.root)}
    assert isinstance(world, ServerWorld)
    server = {"HF_ENDPOINT": world.server.url, "HF_TOKEN": OWNER, "HF_HUB_DISABLE_XET": "1"}
    return kept | server | {"HF_HUB_OFFLINE": "0"}


@pytest.mark.parametrize("world", ["folder", "server"], indirect=True)
def test_what_needs_no_tensors_loads_no_torch(world: World, tmp_path: Path) -> None:
    seed(world, tmp_path / "run")
    world.put({"cfg.json": b"{}", "sae_weights.safetensors": b"{}"}, FOREIGN)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "told.json")],
        env=environment(world, tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    expected: dict[str, list[object]] = {words: [code, []] for words, code in COMMANDS.items()}
    expected |= {"configs": [True, []], **{key: [True, False] for key in ["verify", *READING]}}
    assert told == expected
