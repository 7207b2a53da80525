"""Finished parts of an evaluation: kept under everything they follow from, taken only if all of it is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from hsae_hub import __version__
from hsae_hub.architectures import SAE
from hsae_hub.artifact import REPORTS, write_atomic
from hsae_hub.evaluation.report import Measured
from hsae_hub.models import LanguageModel, tokenizer_sha256

_SAMPLED = 64  # numbers of each of a language model's weights


class Parts:
    """Where finished parts lie; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder / REPORTS / "parts"

    def find(self, key: dict[str, Any]) -> Measured | None:
        """What was measured under this key."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return Measured.from_data(data["measured"]) if data["key"] == key else None
        except (ValueError, KeyError, TypeError):
            return None  # cut off or edited: measured again

    def keep(self, key: dict[str, Any], measured: Measured) -> None:
        """Keeps a part."""
        path = self._path(key)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps({"key": key, "measured": measured.to_data()}) + "\n")

    def _path(self, key: dict[str, Any]) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        return self._folder / f"{key['task']}-{name}.json"


def part_key(
    task: str, settings: dict[str, Any], data: str, lm: str, sae: str, hookpoint: str
) -> dict[str, Any]:
    """Everything that a part follows from; `data`, `lm` and `sae` are digests."""
    return {
        "task": task,
        "settings": settings,
        "data": data,
        "model": lm,
        "sae": sae,
        "hookpoint": hookpoint,
        "hsae_hub": __version__,
        "torch": str(torch.__version__),
    }


def digest_of_sae(sae: SAE[Any]) -> str:
    """Names an SAE by its config, its type, and its weights as they are now, whatever file they came from."""
    hashed = hashlib.sha256(f"{sae.config.model_dump_json()} {sae.dtype}".encode())
    for name, tensor in sae.weights().items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        hashed.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def digest_of_model(lm: LanguageModel) -> str:
    """Names a language model by its vocabulary, its type, and some numbers of each of its weights."""
    hashed = hashlib.sha256(f"{tokenizer_sha256(lm.tokenizer)} {lm.dtype}".encode())
    for name, weight in lm.hf.named_parameters():
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // _SAMPLED)][: 2 * _SAMPLED].double().cpu()
        hashed.update(name.encode() + some.numpy().tobytes())
    return hashed.hexdigest()


def digest_of(values: Iterable[Any]) -> str:
    """Names plain data by its JSON, one value after the other."""
    hashed = hashlib.sha256()
    for value in values:
        hashed.update(json.dumps(value, ensure_ascii=False).encode() + b"\n")
    return hashed.hexdigest()
