"""Some SAEs at one place of one language model, ready to be measured; what is known of them is not done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hsae_hub.architectures import SAE
from hsae_hub.artifact import weights_sha256
from hsae_hub.attach import Attached, attach
from hsae_hub.attach.spliced import check_one_place
from hsae_hub.errors import UsageError
from hsae_hub.evaluation.parts import (
    Parts,
    digest_of_model,
    digest_of_sae,
    part_key,
)
from hsae_hub.evaluation.report import Measured, Other, Report, schema_of
from hsae_hub.models import LanguageModel

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


class Bench:
    """An SAE, and others beside it, attached to their language model.

    `seed` is that of everything that is drawn; `folder` keeps what is done, so that a second call with the same
    weights, data and settings goes on where the first one stopped; `command` is written into the reports.

    Raises:
        MisfitError: an SAE does not fit the model.
        UsageError: SAEs of several places of the model.
    """

    def __init__(
        self,
        sae: SAE[Any],
        *,
        beside: Mapping[str, SAE[Any]] | None = None,
        model: str | LanguageModel | None = None,
        seed: int = 0,
        device: str | None = None,
        folder: Path | None = None,
        command: str = "",
        on_progress: OnProgress | None = None,
    ) -> None:
        first = attach(sae, model, device=device)
        self.lm = first.lm
        self.hookpoint = first.hookpoint
        self.saes: dict[str, Attached] = {"sae": first}
        for name, other in (beside or {}).items():
            self.saes[name] = attach(other, self.lm, device=device)
            check_one_place((first, self.saes[name]))
        self.seed = seed
        self.command = command
        self.tell: OnProgress = on_progress or (lambda what, done, total: None)
        self._parts = Parts(folder)
        self._digests = {name: digest_of_sae(each.sae) for name, each in self.saes.items()}
        self._model = digest_of_model(self.lm)

    def check_reads_text(self, task: str) -> None:
        """Raises UsageError for SAEs of an embedding's rows, which no text says anything about."""
        if self.hookpoint.side == "weight":
            raise UsageError(
                f"{task} needs activations, and this SAE reads the rows of {self.hookpoint}",
                fix="hsae eval REF --on core",
            )

    @torch.no_grad()
    def measure(
        self,
        task: str,
        settings: Mapping[str, Any],
        data: str,
        make: Callable[[dict[str, Attached]], dict[str, Measured]],
    ) -> dict[str, Measured]:
        """What `make` finds of each SAE; it is asked for those that are not kept. `data` is a digest of the data."""
        keys = {
            name: part_key(
                task,
                {**settings, "seed": self.seed},
                data,
                self._model,
                self._digests[name],
                str(self.hookpoint),
            )
            for name in self.saes
        }
        found = {name: self._parts.find(key) for name, key in keys.items()}
        missing = {name: self.saes[name] for name, each in found.items() if each is None}
        if missing:
            for name, measured in make(missing).items():
                found[name] = measured
                self._parts.keep(keys[name], measured)
        return {name: each for name, each in found.items() if each is not None}

    def report(
        self,
        task: str,
        found: Mapping[str, Measured],
        *,
        tokens: int,
        data: Sequence[str],
        settings: Mapping[str, Any],
    ) -> Report:
        """What was found as the task's report."""
        own = found["sae"]
        return Report(
            schema=schema_of(task),
            command=self.command,
            tokens=tokens,
            seed=self.seed,
            sha256=weights_sha256(self.saes["sae"].sae),
            model={"id": self.lm.id, "revision": self.lm.revision},
            hookpoint=str(self.hookpoint),
            data=list(data),
            settings=dict(settings),
            results=own.results,
            details=own.details,
            beside={
                name: Other(
                    sha256=weights_sha256(self.saes[name].sae),
                    results=each.results,
                    details=each.details,
                )
                for name, each in found.items()
                if name != "sae"
            },
        )
