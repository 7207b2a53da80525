"""What the files of a folder say of the SAE in it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from hsae_hub.artifact import CONFIG, WEIGHTS, ArtifactConfig, read_config
from hsae_hub.assets import EMBEDDED_MODEL
from hsae_hub.card.check import CARD
from hsae_hub.errors import CorruptError


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise CorruptError(f"{path} is not JSON: {error}") from None
    return dict_of(data)


def _yaml(path: Path) -> dict[str, Any]:
    try:
        return dict_of(yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {})
    except (yaml.YAMLError, ValueError) as error:
        raise CorruptError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def dict_of(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


class Run:
    """What the files of a folder say; an absent one, and a report about other weights, says nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_config(folder)
        self.summary = _json(folder / "SUMMARY.json")
        self.environment = _json(folder / "env.json")
        core = _json(folder / "eval" / "core.json")
        measured = dict_of(core.get("weights")).get("sae")
        self.core = core if measured == self.config.files[WEIGHTS].sha256 else {}
        self.recipe = _yaml(folder / "resolved.yaml")
        own = folder / CARD
        self.card = own.read_text(encoding="utf-8", errors="replace") if own.is_file() else ""
        self.baseline: ArtifactConfig | None = None
        named = self.config.baseline
        if named is not None and (folder / named / CONFIG).is_file():
            self.baseline = read_config(folder / named)

    @property
    def is_tiny(self) -> bool:
        """Whether it belongs to the embedded model."""
        return self.config.model is not None and self.config.model.id == EMBEDDED_MODEL

    @property
    def is_of_rows(self) -> bool:
        """Whether it reads the rows of an embedding."""
        return self.config.hookpoint is not None and self.config.hookpoint.side == "weight"

    def metrics(self, name: str) -> dict[str, float]:
        """What was measured of the `sae` or the `baseline`."""
        found = dict_of(dict_of(self.core.get("saes")).get(name))
        return {
            key: float(value)
            for key, value in found.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
