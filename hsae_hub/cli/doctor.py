"""`hsae doctor`: what this machine has, for a report or a first look."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hsae_hub.cli.common import Json, Output, Quiet, pairs, size_text

_PACKAGES = ("torch", "transformers", "nnsight", "huggingface_hub", "datasets", "safetensors")


def doctor(json: Json = False, quiet: Quiet = False) -> None:
    """Say what this machine has: versions, devices, caches.

    It says whether there is a token, never the token.

    \b
    Example:
      hsae doctor --json > report.json
    """
    out = Output("doctor", json=json, quiet=quiet)
    found = {
        "versions": _versions(),
        "devices": _devices(),
        "places": _places(),
        "network": _network(),
    }
    sections = [
        f"{name}\n{_indented(pairs([(key, str(value)) for key, value in rows.items()]))}"
        for name, rows in found.items()
    ]
    out.result(found, "\n\n".join(sections), found["versions"]["hsae-hub"])


def _versions() -> dict[str, str]:
    import hsae_hub

    versions = {"hsae-hub": hsae_hub.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _devices() -> dict[str, str]:
    import torch

    from hsae_hub.ops.kernels import has_numba

    compiled = "sparse products compiled by numba"
    missing = "sparse products plain: pip install 'hsae-hub[fast]' compiles them"
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads for torch"
    devices = {"cpu": f"{cores}, {compiled if has_numba() else missing}"}
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        devices[f"cuda:{index}"] = f"{name}, {size_text(free)} of {size_text(total)} free"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return devices


def _places() -> dict[str, str]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from hsae_hub.assets import embedded_model

    return {
        "package": str(Path(__file__).parent.parent),
        "python": sys.executable,
        "embedded model": str(embedded_model()) if embedded_model().is_dir() else "missing",
        "hub cache": f"{HF_HUB_CACHE}, {_free(Path(HF_HUB_CACHE))}",
        "here": f"{Path.cwd()}, {_free(Path.cwd())}",
    }


def _network() -> dict[str, Any]:
    from huggingface_hub import get_token
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    return {
        "hub": re.sub(r"//[^/@]*@", "//", os.environ.get("HSAE_HUB") or ENDPOINT),
        "offline": "yes (HF_HUB_OFFLINE)" if HF_HUB_OFFLINE else "no",
        "token": "present" if get_token() else "none; hf auth login",
    }


def _free(path: Path) -> str:
    there = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
    return f"{size_text(shutil.disk_usage(there).free)} free"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
