"""Which foreign formats are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hsae_hub.architectures import SAE
from hsae_hub.artifact import ArtifactConfig
from hsae_hub.interop.dictionary_learning import export_dictionary_learning
from hsae_hub.interop.sae_lens_export import export_sae_lens, export_sae_lens_parents
from hsae_hub.interop.sparsify import export_sparsify

Export = Callable[[SAE[Any], ArtifactConfig | None, Path], None]
"""Writes an SAE, with what is known about it, into a folder; UsageError where the format cannot hold it exactly."""

EXPORTS: dict[str, Export] = {
    "sae-lens": export_sae_lens,
    "sae-lens-parents": export_sae_lens_parents,
    "sparsify": export_sparsify,
    "dictionary-learning": export_dictionary_learning,
}
"""What can be written, by the name that `hsae export` takes."""
