"""Whether an SAE reconstructs the model that it is attached to as well as was measured when it was saved."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch

from hsae_hub.architectures import SAE
from hsae_hub.artifact import ArtifactConfig, dtype_name, info_of
from hsae_hub.attach.batches import encode_texts, ordinary_tokens, pad_left
from hsae_hub.metrics import ReconstructionStats
from hsae_hub.models import Hookpoint, LanguageModel, read_activations

PROBE = (
    "The river rises in the hills to the north and flows through three small towns before it reaches the sea.",
    "She closed the door, put the letter on the table and asked him when the next train would leave.",
    "In 1871 the first railway was opened, and within ten years the number of people living there had doubled.",
    "Most birds of this family build their nests on the ground, where they are hidden by long grass.",
    "The committee will meet again in March to decide whether the new law should be changed or withdrawn.",
)
"""Plain English, ours."""
FAR_BELOW = 0.25
"""A shortfall of explained variance that another text does not account for."""


@torch.no_grad()
def explained_on_probe(
    sae: SAE[Any], lm: LanguageModel, hookpoint: Hookpoint, *, keep_first: bool = False
) -> float | None:
    """Explained variance on `PROBE`; `keep_first` counts the first token of each text, special or not.

    None where the tokenizer makes nothing of it.
    """
    rows = encode_texts(lm, PROBE)
    batch = pad_left(lm, rows)
    ordinary = ordinary_tokens(lm, batch)
    if keep_first:
        for i, row in enumerate(rows):
            ordinary[i, batch.ids.shape[1] - len(row)] = True
    x = read_activations(lm, hookpoint, *batch)
    x = x[ordinary.to(x.device)].to(sae.device)
    stats = ReconstructionStats(sae.d_in)
    stats.update(x, sae(x).sae_out)
    try:
        return stats.explained_variance()
    except ValueError:
        return None


def warn_if_far_below(sae: SAE[Any], lm: LanguageModel, hookpoint: Hookpoint) -> None:
    """Warns when an SAE explains far less of the model's activations than its report says, and names likely causes.

    An SAE without a report, or of an embedding's rows, is not probed.
    """
    info = info_of(sae)
    claimed = None if info is None else info.explained_variance
    if info is None or claimed is None or hookpoint.side == "weight":
        return
    found = explained_on_probe(sae, lm, hookpoint)
    if found is None or found > claimed - FAR_BELOW:
        return
    causes = list(_causes(sae, info.config, lm, hookpoint, found, claimed))
    warnings.warn(
        f"{info.ref} explains {found:.2f} of the variance of {lm.id} at {hookpoint} on a short English text, but "
        f"{claimed:.2f} was measured when it was saved. Likely causes: {'; '.join(causes)}",
        UserWarning,
        stacklevel=2,
    )


def _causes(
    sae: SAE[Any],
    config: ArtifactConfig,
    lm: LanguageModel,
    hookpoint: Hookpoint,
    found: float,
    claimed: float,
) -> Iterator[str]:
    """The usual ones, most telling first: what was measured, what config and model say, what cannot be seen."""
    enough = found + (claimed - found) / 2
    for place in _neighbours(lm, hookpoint):
        there = explained_on_probe(sae, lm, place)
        if there is not None and there > enough:
            yield f"the wrong layer or side (at {place} it explains {there:.2f})"
    with_first = explained_on_probe(sae, lm, hookpoint, keep_first=True)
    if with_first is not None and with_first > enough:
        yield f"it was measured with the first token counted (so it explains {with_first:.2f} here)"
    adds_bos = encode_texts(lm, PROBE[:1])[0][0] == lm.tokenizer.bos_token_id
    if config.tokens is not None and config.tokens.bos != adds_bos:
        kept, now = ("with", "without") if config.tokens.bos else ("without", "with")
        yield f"it was trained {kept} BOS, and this tokenizer reads texts {now} it"
    if config.model is not None and config.model.dtype != dtype_name(lm.dtype):
        yield f"another type (trained in {config.model.dtype}, run in {dtype_name(lm.dtype)})"
    if sae.config.normalize == "none":
        yield "activations that were scaled before training, and are not here (normalize is none)"
    yield "another model, revision or fine-tune under the same name, or text far from what it was trained on"


def _neighbours(lm: LanguageModel, hookpoint: Hookpoint) -> Iterator[Hookpoint]:
    layer = hookpoint.layer
    if layer is None:
        return
    below = hookpoint.path.removeprefix(f"layers.{layer}")
    for other in (layer - 1, layer + 1):
        if 0 <= other < lm.n_layers:
            yield hookpoint._replace(path=f"layers.{other}{below}")
    other_place = Hookpoint(hookpoint.path, "input" if hookpoint.side == "output" else "output")
    if not hookpoint.is_residual and other_place.width(lm) == lm.d_model:
        yield other_place
