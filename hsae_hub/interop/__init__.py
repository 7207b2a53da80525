"""SAEs in the formats of other toolkits: one file a format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hsae_hub.architectures import SAE
from hsae_hub.artifact import ArtifactConfig
from hsae_hub.interop.sae_lens_export import export_sae_lens, export_sae_lens_parents

Export = Callable[[SAE[Any], ArtifactConfig | None, Path], None]
"""Writes an SAE, with what is known about it, into a folder; UsageError where the format cannot hold it exactly."""

EXPORTS: dict[str, Export] = {
    "sae-lens": export_sae_lens,
    "sae-lens-parents": export_sae_lens_parents,
}
"""What can be written, by the name that `hsae export` takes."""
