"""The folder of a run: what it says of itself, and whether another start may go on in it."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

import hsae_hub
from hsae_hub.artifact import CONFIG, write_atomic
from hsae_hub.errors import CorruptError, UsageError
from hsae_hub.launch import place
from hsae_hub.recipes import LoadedRecipe, differing, dump_recipe, keys_of, load_recipe

RESOLVED = "resolved.yaml"
ENVIRONMENT = "env.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
SUMMARY = "SUMMARY.json"

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "datasets", "numpy")


def check_folder(out: Path, loaded: LoadedRecipe, resume: Literal["auto", "never"]) -> None:
    """Makes sure that a folder is free for a run, or that of this one; writes nothing.

    Raises:
        UsageError: it holds something else, a run of another recipe, or a run that is not to be resumed.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; a run needs a folder")
    if (out / RESOLVED).is_file():
        if not _has_begun(out):
            return
        if resume == "never":
            raise UsageError(
                f"{out} holds a run already",
                fix=f"hsae train --resume {out}    to go on with it\nor another --out",
            )
        _refuse_other(out, loaded)
    elif out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise UsageError(f"{out} is not empty and holds no run", fix="give another --out")


def open_folder(out: Path, loaded: LoadedRecipe) -> None:
    """Writes down what is run in a folder that is there, unless an earlier start has and came to a step."""
    has_begun = _has_begun(out)
    for name, text in (
        (RESOLVED, dump_recipe(loaded.recipe)),  # first: it is what makes the folder a run's
        ("recipe.yaml", loaded.text),
        ("overrides.txt", "".join(f"{line}\n" for line in loaded.overrides)),
    ):
        if not (has_begun and (out / name).exists()):
            write_atomic(out / name, text)


def _has_begun(out: Path) -> bool:
    """Whether there is anything to lose: a start that failed before its first step leaves its recipe alone."""
    metrics, checkpoints = out / METRICS, out / CHECKPOINTS
    return (
        (metrics.is_file() and metrics.stat().st_size > 0)
        or (checkpoints.is_dir() and any(checkpoints.iterdir()))
        or (out / CONFIG).is_file()
    )


def _refuse_other(out: Path, loaded: LoadedRecipe) -> None:
    found = differing(
        load_recipe(out / RESOLVED).recipe.model_dump(mode="json"),
        loaded.recipe.model_dump(mode="json"),
        where="in the run",
        here="now",
    )
    if found:
        raise UsageError(
            f"{out} holds a run of another recipe; they differ in {keys_of(found)}",
            why="a resumed run has to be the run that was begun",
            fix=f"hsae train --resume {out}    to go on as it began\nor another --out",
            problems=found,
        )


def write_environment(out: Path, loaded: LoadedRecipe, device: torch.device) -> dict[str, Any]:
    """Notes in `env.json` what the run runs on; a resumed run keeps the name of its recipe."""
    path = out / ENVIRONMENT
    before = read_json(path) if path.is_file() else {}
    commit, dirty = _git()
    environment = {
        "recipe": before.get("recipe", loaded.name),
        "versions": {
            "hsae-hub": hsae_hub.__version__,
            "python": platform.python_version(),
            **{name: found for name in _PACKAGES if (found := _version(name))},
        },
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "processes": place().world,
        "threads": torch.get_num_threads(),
        "git_commit": commit,
        "git_dirty": dirty,
    }
    write_atomic(path, json.dumps(environment, indent=2) + "\n")
    return environment


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> tuple[str | None, bool | None]:
    checkout = Path(hsae_hub.__file__).parent.parent
    if not (checkout / ".git").exists():  # an installed package may lie inside somebody else's
        return None, None
    answers = []
    for question in (("rev-parse", "HEAD"), ("status", "--porcelain")):
        try:
            asked = subprocess.run(
                ["git", "-C", str(checkout), *question], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None, None
        if asked.returncode:
            return None, None
        answers.append(asked.stdout.strip())
    return answers[0], bool(answers[1])


def cut_metrics(path: Path, step: int) -> None:
    """Drops the lines of `metrics.jsonl` after a step, and a line that was torn."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            is_kept = json.loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError):
            break
        if is_kept:
            kept.append(line)
    write_atomic(path, "".join(f"{line}\n" for line in kept))


def metrics_line(path: Path, number: int) -> dict[str, Any]:
    """A line of `metrics.jsonl`; -1 is the last one."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(json.loads(lines[number])) if lines else {}


def read_json(path: Path) -> dict[str, Any]:
    """An object from one of the run's files.

    Raises:
        CorruptError: it is not one.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CorruptError(f"{path} is not a JSON object: {error}", fix=f"remove {path}") from None
