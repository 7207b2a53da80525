"""Metrics of SAEs of an embedding's rows: there is no text, and no loss of the language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hsae_hub.activations import Vocabulary
from hsae_hub.architectures import SAE
from hsae_hub.artifact import config_of
from hsae_hub.attach import Attached
from hsae_hub.attach.spliced import check_one_place
from hsae_hub.errors import UsageError
from hsae_hub.metrics import ReconstructionStats
from hsae_hub.ops import Whitening, whitening

STRONG = 0.1
"""A child is strong from this share of its parent's act on; one below its threshold has about a hundredth."""
_BATCH = 4096  # rows


@torch.no_grad()
def measure_rows(
    saes: Mapping[str, Attached], rows: Vocabulary, on_progress: Callable[[int, int], None]
) -> dict[str, dict[str, int | float]]:
    """Metrics of each SAE on the rows that are held out, `seen_…` on the others, dead latents on both.

    `…_whitened` is explained variance by the causal inner product: in coordinates in which the rows that are not held
    out are white, whatever the SAE itself does with them. `seen_…` is there where these are the rows it was trained on.

    Raises:
        UsageError: fewer than two rows are held out, or SAEs of several places.
    """
    if len(rows.heldout) < 2:
        raise UsageError(
            f"{len(rows.heldout)} rows are held out, too few to measure on",
            fix="give more text, or a larger data.heldout_fraction",
        )
    first = check_one_place(saes.values())
    weight = first.hookpoint.rows(first.lm)
    heldout, seen = (weight[ids.to(weight.device)].float() for ids in (rows.heldout, rows.trained))
    space = whitening(seen)
    found = {}
    for done, (name, each) in enumerate(saes.items(), 1):
        on_held, on_seen = _Measured(each.sae, heldout, space), _Measured(each.sae, seen, space)
        config = config_of(each.sae)
        is_known = config is not None and config.vocabulary == rows.config
        found[name] = on_held.numbers(on_seen, is_known=is_known)
        on_progress(done, len(saes))
    return found


class _Measured:
    """One SAE on some rows."""

    def __init__(self, sae: SAE[Any], x: Float[Tensor, "rows d"], space: Whitening) -> None:
        self.sae = sae
        self.raw, self.white = ReconstructionStats(sae.d_in), ReconstructionStats(sae.d_in)
        self.parents, self.children, self.strong = 0, 0, 0
        fired = torch.zeros(sae.d_sae, dtype=torch.bool)
        for part in torch.split(x, _BATCH):
            out = sae(part)
            self.raw.update(part, out.sae_out)
            self.white.update(
                *((rows.double() - space.mean) @ space.whiten for rows in (part, out.sae_out))
            )
            acting = out.acts.indices[out.acts.values != 0].cpu()
            fired[acting] = True
            parents = int((acting < sae.shape.n_parents).sum())
            self.parents += parents
            self.children += len(acting) - parents
            if sae.shape.n_children:
                act, below = out.acts.values.tensor_split(2, -1)
                self.strong += int((below.abs() >= STRONG * act)[act > 0].sum())
        self.fired: Bool[Tensor, " d_sae"] = fired
        own = sae.report(x[:_BATCH])
        self.reported = {name: value for name, value in own.items() if math.isfinite(value)}

    def numbers(self, seen: _Measured, *, is_known: bool) -> dict[str, int | float]:
        """By name, as they are reported."""
        sae, rows = self.sae, self.raw.tokens
        dead = ~(self.fired | seen.fired)
        l0 = (self.parents + self.children) / rows
        is_tree = bool(sae.shape.n_children)
        found = {
            "tokens": rows,
            "explained_variance": self.raw.explained_variance(),
            "explained_variance_whitened": self.white.explained_variance(),
            "seen_tokens": seen.raw.tokens if is_known else None,
            "seen_explained_variance": seen.raw.explained_variance() if is_known else None,
            "seen_explained_variance_whitened": seen.white.explained_variance()
            if is_known
            else None,
            "mse": self.raw.mse(),
            "cosine": self.raw.cosine(),
            "l0": l0,
            "l0_parents": self.parents / rows if is_tree else None,
            "l0_children": self.children / rows if is_tree else None,
            "strong_children": self.strong / max(self.parents, 1) if is_tree else None,
            "l0_sparsity": 100 * (1 - l0 / sae.d_sae),
            "dead_latents": int(dead.sum()),
            "dead_parents": int(dead[: sae.shape.n_parents].sum()) if is_tree else None,
            "d_sae": sae.d_sae,
        }
        return {name: value for name, value in found.items() if value is not None} | self.reported
