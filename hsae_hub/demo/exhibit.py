"""An SAE on show: attached, with its baseline and its feature index where it has them, and what was looked at last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

from hsae_hub.artifact import ArtifactInfo, dtype_name, info_of
from hsae_hub.attach import Attached, Decomposition
from hsae_hub.features import labelled, own_index

_KEPT = 32
"""Decompositions that are kept: a text of 400 tokens takes some 5 MB."""
RUNNER_UPS = 3


class Looked(NamedTuple):
    """A text, taken apart."""

    tree: Decomposition
    flat: dict[int, float]
    """What the baseline explains of each token; empty without one."""


class Exhibit:
    """What all visitors of one SAE share."""

    def __init__(
        self,
        ref: str,
        folder: Path,
        attached: Attached,
        baseline: Attached | None,
        baseline_ref: str,
    ) -> None:
        self.ref = ref
        self.folder = folder
        self.attached = attached
        self.baseline = baseline
        self.baseline_ref = baseline_ref
        """What loads the baseline."""
        self.index = own_index(folder, attached.sae)
        self._kept: OrderedDict[str, Looked] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def info(self) -> ArtifactInfo | None:
        """What the SAE knows of itself."""
        return info_of(self.attached.sae)

    def headline(self) -> str:
        """What it is, in a line."""
        n_parents, n_children = self.attached.sae.shape
        size = f"{n_parents:,} parents × {n_children}" if n_children else f"{n_parents:,} latents"
        lm = self.attached.lm
        place = self.attached.hookpoint
        return f"{self.ref} · {lm.id} · {place} · {size} · {dtype_name(lm.dtype)} on {lm.device}"

    def labels(self) -> dict[str, str]:
        """Words for features; empty without an index."""
        return {} if self.index is None else self.index.all_labels()

    def first_feature(self) -> str:
        """What is shown before anything is chosen: the parent that acts most often, else the first."""
        stats = None if self.info is None else self.info.stats
        shape = self.attached.sae.shape
        if stats is None:
            return shape.name(0)
        return shape.name(int(stats.density[: shape.n_parents].argmax()))

    def feature(self, name: str) -> dict[str, Any]:
        """What is known of a feature, as JSON can hold it.

        Raises:
            NotFoundError: there is no such feature.
        """
        shape = self.attached.sae.shape
        latent = shape.index_of(name)
        if self.index is not None:
            return {"schema": "hsae.feature/1", **self.index.feature(name).to_dict()}
        stats = None if self.info is None else self.info.stats
        known = (
            {}
            if stats is None
            else {
                "density": float(stats.density[latent]),
                "p999": float(stats.p999[latent]),
            }
        )
        return {"schema": "hsae.feature/1", "feature": shape.name(latent), **known}

    def look(self, text: str) -> Looked:
        """Takes a text apart, or remembers it.

        Raises:
            UsageError: the text has no token, or more than the model can read.
        """
        with self._lock:
            if text in self._kept:
                self._kept.move_to_end(text)
                return self._kept[text]
        tree = labelled(self.attached.decompose(text, runner_ups=RUNNER_UPS), self.labels())
        flat = {}
        if self.baseline is not None:
            tokens = self.baseline.decompose(text, 1).tokens
            flat = {token.position: token.explained for token in tokens if not token.special}
        with self._lock:
            self._kept[text] = Looked(tree, flat)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[text]
