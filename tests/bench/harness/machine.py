"""Where and with what something was measured."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
PACKAGES = (
    "hsae-hub",
    "torch",
    "numpy",
    "numba",
    "triton",
    "transformers",
    "nnsight",
    "safetensors",
    "huggingface_hub",
)


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter here, those that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Its name, with its family and model where several go by one name, and how many cores this process may use."""
    fields: dict[str, str] = {}
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name", platform.processor() or platform.machine())
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields['model']})"
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def load() -> list[float]:
    """Processes that ran or waited to, on average over the last 1, 5 and 15 minutes."""
    return [round(each, 2) for each in os.getloadavg()]
