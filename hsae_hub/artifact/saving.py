"""Writes an SAE to a folder, the config last."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from hsae_hub import __version__
from hsae_hub.architectures import SAE
from hsae_hub.artifact.config import (
    ArtifactConfig,
    HookpointConfig,
    ImportedConfig,
    ModelConfig,
    TokensConfig,
    TrainingConfig,
    VocabularyConfig,
)
from hsae_hub.artifact.files import CONFIG, STATS, WEIGHTS, file_info, write_atomic
from hsae_hub.artifact.tensors import check_finite, dtype_name, write_tensors


class LatentTable(NamedTuple):
    """What is known of every latent from a sample of tokens."""

    p999: Float[Tensor, " d_sae"]
    """99.9th percentile of act / ‖x‖ over the tokens where the latent is positive; 0 where it never was."""
    density: Float[Tensor, " d_sae"]
    """Share of tokens on which the latent is not zero, 0 to 1."""
    tokens: int
    """Size of the sample."""


def save_sae(
    sae: SAE[Any],
    folder: Path,
    *,
    model: ModelConfig | None = None,
    hookpoint: HookpointConfig | None = None,
    tokens: TokensConfig | None = None,
    vocabulary: VocabularyConfig | None = None,
    training: TrainingConfig | None = None,
    imported: ImportedConfig | None = None,
    baseline: str | None = None,
    stats: LatentTable | None = None,
) -> ArtifactConfig:
    """Writes an SAE with what is known about it into a folder, which is made if it is not there.

    Raises:
        CorruptError: a weight is not finite; nothing is written.
    """
    weights = {
        name: tensor.to("cpu", sae.dtype).contiguous() for name, tensor in sae.weights().items()
    }
    for name, tensor in weights.items():
        check_finite(name, tensor)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format_version": "1", "written_by": f"hsae-hub {__version__}"}
    write_atomic(folder / WEIGHTS, lambda path: write_tensors(path, weights, metadata))
    names = [WEIGHTS]
    if stats is None:
        (folder / STATS).unlink(missing_ok=True)
    else:
        table = {"p999": stats.p999.float().cpu(), "density": stats.density.float().cpu()}
        counted = metadata | {"tokens": str(stats.tokens)}
        write_atomic(folder / STATS, lambda path: write_tensors(path, table, counted))
        names.append(STATS)
    config = ArtifactConfig(
        sae=sae.config,
        dtype=dtype_name(sae.dtype),
        model=model,
        hookpoint=hookpoint,
        tokens=tokens,
        vocabulary=vocabulary,
        training=training,
        imported=imported,
        baseline=baseline,
        files={name: file_info(folder / name) for name in names},
    )
    write_atomic(folder / CONFIG, config.to_json())
    return config
