"""Core metrics of one SAE, and of a flat one beside it: reconstruction, sparsity, and the language model's loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hsae_hub.activations import choose_rows, describe_rows, heldout_windows, pad_contexts
from hsae_hub.architectures import SAE
from hsae_hub.artifact import WEIGHTS, write_atomic
from hsae_hub.attach import Attached, SpliceReport, attach, splice_losses
from hsae_hub.evaluation.rows import measure_rows
from hsae_hub.metrics import LatentStats, ReconstructionStats
from hsae_hub.models import LanguageModel, read_activations
from hsae_hub.recipes import DataConfig, DataSource, VocabularySection

CORE_FILE = "eval/core.json"
"""Where a run folder keeps its report."""
_BATCH = 16  # contexts that the language model reads at once
_REPORTED = 16_384  # activations that an architecture's own report is about, at most: it takes them all at once

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


class CoreReport(BaseModel):
    """Everything that was measured, and on what; `saes` holds `sae` and, by their names, those beside it."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_: Literal["hsae.eval.core/1"] = Field(default="hsae.eval.core/1", alias="schema")
    command: str
    tokens: int
    """Activations, or held-out rows of an embedding, that were measured: no special tokens."""
    contexts: int
    """0 for rows, which stand in none."""
    data: list[str]
    """One line a source of text."""
    seed: int
    model: dict[str, str | None]
    """Id and revision of the language model."""
    hookpoint: str
    weights: dict[str, str]
    """sha256 of the measured weights, where they came from a file; a card ignores a report about others."""
    saes: dict[str, dict[str, int | float]]
    """Metrics by name."""

    def save(self, folder: Path) -> Path:
        """Writes the report where the card of a run folder finds it."""
        path = folder / CORE_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, self.model_dump_json(indent=2, by_alias=True) + "\n")
        return path


def evaluate(
    sae: SAE[Any],
    data: DataConfig | Sequence[str],
    *,
    beside: Mapping[str, SAE[Any]] | None = None,
    model: str | LanguageModel | None = None,
    tokens: int = 50_000,
    seed: int = 0,
    device: str | None = None,
    command: str = "",
    on_progress: OnProgress | None = None,
) -> CoreReport:
    """Measures an SAE, and others beside it on the same contexts, on about `tokens` activations of text not seen.

    `data` is a recipe's section, whose held-out part is taken, or a list of texts. The language model is the one that
    the SAE names unless `model` is given. `seed` is that of text which the model writes itself. An SAE of an
    embedding's rows is measured on all of them that are held out.

    Raises:
        UsageError: no text is held out, or too little.
        MisfitError: an SAE does not fit the model.
    """
    attached = attach(sae, model, device=device)
    lm = attached.lm
    config = data if isinstance(data, DataConfig) else _section(data, sae)
    tell = on_progress or (lambda what, done, total: None)
    saes = {"sae": attached}
    saes |= {name: attach(other, lm, device=device) for name, other in (beside or {}).items()}

    def prepared(phase: str, done: int, total: int) -> None:
        tell({"sample": "writing text", "count": "counting tokens"}[phase], done, total)

    measuring = partial(tell, "measuring")
    contexts: list[Tensor] = []
    if attached.hookpoint.side == "weight":
        rows = choose_rows(lm, attached.hookpoint, config, sample_seed=seed, on_progress=prepared)
        measured = measure_rows(saes, rows, measuring)
        sources = [describe_rows(rows.config, str(attached.hookpoint), heldout=True)]
    else:
        contexts = heldout_windows(
            config, lm, tokens=tokens, sample_seed=seed, on_progress=prepared
        )
        measured = _measure(saes, contexts, measuring)
        sources = [source.describe() for source in config.heldout or config.train]
    return CoreReport(
        command=command,
        tokens=int(measured["sae"]["tokens"]),
        contexts=len(contexts),
        data=sources,
        seed=seed,
        model={"id": lm.id, "revision": lm.revision},
        hookpoint=str(attached.hookpoint),
        weights={
            name: each.sae.info.config.files[WEIGHTS].sha256
            for name, each in saes.items()
            if each.sae.info is not None
        },
        saes=measured,
    )


def _section(texts: Sequence[str], sae: SAE[Any]) -> DataConfig:
    source = DataSource(lines=list(texts))
    known = sae.info.config if sae.info is not None else None
    if known is not None and known.vocabulary is not None:
        fraction = known.vocabulary.heldout_fraction
        return DataConfig(train=[source], heldout_fraction=fraction, vocabulary=VocabularySection())
    tokens = known.tokens if known is not None else None
    if tokens is None:
        return DataConfig(train=[source], heldout=[source])
    return DataConfig(
        train=[source],
        heldout=[source],
        context_length=tokens.context_length,
        bos=tokens.bos,
        skip_special=tokens.skip_special,
    )


@torch.no_grad()
def _measure(
    saes: Mapping[str, Attached],
    contexts: Sequence[Int64[Tensor, " _"]],
    on_progress: Callable[[int, int], None],
) -> dict[str, dict[str, int | float]]:
    reconstruction = {name: ReconstructionStats(each.sae.d_in) for name, each in saes.items()}
    latents = {name: LatentStats(each.sae.d_sae) for name, each in saes.items()}
    sample: list[Tensor] = []
    for at in range(0, len(contexts), _BATCH):
        x = _activations(saes["sae"], list(contexts[at : at + _BATCH]))
        sample.append(x[: max(_REPORTED - sum(map(len, sample)), 0)])
        for name, each in saes.items():
            out = each.sae(x)
            reconstruction[name].update(x, out.sae_out)
            latents[name].update(out.acts.values, out.acts.indices, x.norm(dim=-1))
    losses = splice_losses(saes, contexts, on_progress=on_progress)
    return {
        name: _metrics(each.sae, losses[name], reconstruction[name], latents[name])
        | _reported(each.sae, torch.cat(sample))
        for name, each in saes.items()
    }


def _metrics(
    sae: SAE[Any], losses: SpliceReport, reconstruction: ReconstructionStats, latents: LatentStats
) -> dict[str, int | float]:
    dead = latents.counts() == 0
    n_parents = sae.shape.n_parents
    found = {
        **losses.numbers(),
        "mse": reconstruction.mse(),
        "cosine": reconstruction.cosine(),
        "l0_sparsity": 100 * (1 - losses.l0 / sae.d_sae),
        "dead_latents": int(dead.sum()),
        "dead_parents": int(dead[:n_parents].sum()) if sae.shape.n_children else None,
        "d_sae": sae.d_sae,
    }
    return {name: value for name, value in found.items() if value is not None}


def _reported(sae: SAE[Any], x: Float[Tensor, "tokens d_in"]) -> dict[str, float]:
    return {name: value for name, value in sae.report(x).items() if math.isfinite(value)}


def _activations(
    attached: Attached, contexts: list[Int64[Tensor, " _"]]
) -> Float[Tensor, "tokens d_in"]:
    """Activations of the ordinary tokens of some contexts."""
    lm = attached.lm
    ids, mask = pad_contexts(contexts, lm.tokenizer.pad_token_id or 0)
    ordinary = mask & ~torch.isin(ids, torch.tensor(sorted(lm.special_ids)))
    x = read_activations(lm, attached.hookpoint, ids.to(lm.device), mask.long().to(lm.device))
    return x[ordinary.to(lm.device)]
