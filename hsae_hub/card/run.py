"""What the files of a folder say of the SAE in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from hsae_hub.artifact import CONFIG, REPORTS, WEIGHTS, ArtifactConfig, read_config
from hsae_hub.assets import EMBEDDED_MODEL
from hsae_hub.card.check import CARD
from hsae_hub.card.reports import Report, alone, dict_of, parse_report, read_json
from hsae_hub.errors import CorruptError

GALLERY = "features/gallery.json"


def _yaml(path: Path) -> dict[str, Any]:
    try:
        return dict_of(yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {})
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CorruptError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def home_of(folder: Path) -> tuple[Path, str]:
    """Where the files of an SAE's run lie, and its name in the reports: one of `also` lies in the run's folder."""
    if (folder / "resolved.yaml").exists():
        return folder, "sae"
    also = dict_of(_yaml(folder.parent / "resolved.yaml").get("also"))
    return (folder.parent, folder.name) if folder.name in also else (folder, "sae")


class Run:
    """What the files of a folder say; an absent one, and a report about other weights, says nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_config(folder)
        self.home, self.name = home_of(folder)
        self.summary = read_json(self.home / "SUMMARY.json")
        self.environment = read_json(self.home / "env.json")
        self.recipe = _yaml(self.home / "resolved.yaml")
        self.gallery = read_json(folder / GALLERY)
        own = folder / CARD
        self.card = own.read_text(encoding="utf-8", errors="replace") if own.is_file() else ""
        self.baseline: ArtifactConfig | None = None
        named = self.config.baseline
        if named is not None and (folder / named / CONFIG).is_file():
            self.baseline = read_config(folder / named)
        parsed = {name: parse_report(data, name) for name, data in self._reports().items()}
        self.reports: dict[str, Report] = {n: each for n, each in parsed.items() if each}

    @property
    def core(self) -> Report | None:
        """What was measured of reconstruction and loss."""
        return self.reports.get("core")

    @property
    def is_tiny(self) -> bool:
        """Whether it belongs to the embedded model."""
        return self.config.model is not None and self.config.model.id == EMBEDDED_MODEL

    @property
    def is_of_rows(self) -> bool:
        """Whether it reads the rows of an embedding."""
        return self.config.hookpoint is not None and self.config.hookpoint.side == "weight"

    def metrics(self, name: str = "sae") -> dict[str, float]:
        """What the core report says of the `sae` or of its `baseline`."""
        values = self.core.of(name) if self.core else {}
        return {key: each.value for key, each in values.items()}

    def report_files(self) -> dict[str, bytes]:
        """The reports of the run that are about this SAE, as files of its own folder."""
        return {
            f"{REPORTS}/{name}.json": (
                json.dumps(data, indent=2, ensure_ascii=False) + "\n"
            ).encode()
            for name, data in self._reports().items()
        }

    def _reports(self) -> dict[str, dict[str, Any]]:
        sha256 = self.config.files[WEIGHTS].sha256
        found = {}
        for path in sorted((self.home / REPORTS).glob("*.json")):
            if data := alone(read_json(path), self.name, sha256):
                found[path.stem] = data
        return found
