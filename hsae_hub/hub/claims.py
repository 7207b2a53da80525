"""What was measured of an SAE against the report that came with it, and why the two may differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hsae_hub.artifact import CORE_REPORT, WEIGHTS, ArtifactConfig, read_config
from hsae_hub.evaluation import CoreReport
from hsae_hub.hub.places import Check

_LARGEST_REPORT = 1 << 20  # bytes


class Limits(NamedTuple):
    """How far a measurement may be from what is claimed."""

    explained_variance: float
    """Difference."""
    l0: float
    """Ratio, either way."""


SAME_TEXT = Limits(0.03, 1.1)
"""On the text that the claim is about: another sample, another processor."""
OTHER_TEXT = Limits(0.15, 2.0)
"""On any other text."""


def compare(folder: Path, report: CoreReport | None) -> tuple[list[Check], list[str]]:
    """What `report` has measured beside what the report in a folder claims, and likely causes where they differ.

    Without a `report` only whether the one in the folder is about the weights there.
    """
    config, claim = read_config(folder), read_claim(folder)
    about = _about(config, claim)
    if report is None:
        return [about], []
    compared = _compared(claim if about.passed else None, report)
    differs = any(check.passed is False for check in compared)
    return [about, *compared], list(_causes(config, claim, report)) if differs else []


def read_claim(folder: Path) -> CoreReport | None:
    """The report of an evaluation that came with an SAE."""
    path = folder / CORE_REPORT
    try:
        if path.stat().st_size <= _LARGEST_REPORT:
            return CoreReport.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # pydantic's errors are ValueErrors too
        return None
    return None


def _about(config: ArtifactConfig, claim: CoreReport | None) -> Check:
    """Whether the report is about these weights."""
    if claim is None:
        return Check("report", None, f"no {CORE_REPORT} that can be read")
    named, own = claim.weights.get("sae", ""), config.files[WEIGHTS].sha256
    if named == own:
        return Check("report", True, f"{claim.tokens:,} tokens of {'; '.join(claim.data)}")
    return Check(
        "report",
        False,
        f"{CORE_REPORT} is about weights with sha256 {named[:12]}…, these have {own[:12]}…",
    )


def _compared(claim: CoreReport | None, report: CoreReport) -> list[Check]:
    measured = report.saes["sae"]
    ev, l0 = measured["explained_variance"], measured["l0"]
    claimed = {} if claim is None else claim.saes.get("sae", {})
    said_ev, said_l0 = claimed.get("explained_variance"), claimed.get("l0")
    limits = SAME_TEXT if claim is not None and _same_text(claim, report) else OTHER_TEXT
    ev_ok = None if said_ev is None else ev >= said_ev - limits.explained_variance
    if limits is SAME_TEXT and said_ev is not None:
        ev_ok = abs(ev - said_ev) <= limits.explained_variance
    l0_ok = None if not said_l0 else 1 / limits.l0 <= l0 / said_l0 <= limits.l0
    if said_ev is None:
        ev_ok = False if ev < 0 else None  # worse than no SAE, whatever is claimed
    return [
        Check("explained_variance", ev_ok, _beside(ev, said_ev)),
        Check("l0", l0_ok, _beside(l0, said_l0)),
    ]


def _same_text(claim: CoreReport, report: CoreReport) -> bool:
    return claim.data == report.data and claim.model.get("id") == report.model.get("id")


def _beside(measured: float, claimed: float | None) -> str:
    return f"measured {measured:.4f}, " + (
        "nothing is claimed" if claimed is None else f"claimed {claimed:.4f}"
    )


def _causes(config: ArtifactConfig, claim: CoreReport | None, report: CoreReport) -> Iterator[str]:
    """Why a measurement may differ, the likeliest first."""
    measured = report.saes["sae"]
    told = dict(claim.saes.get("sae", {})) if claim is not None else {}
    used, own = report.model, config.model
    if own is not None and used.get("id") != own.id:
        yield f"it was measured on {used.get('id')}, but trained on {own.id}"
    elif own is not None and own.revision and used.get("revision") not in (None, own.revision):
        yield f"{own.id} was at {str(used.get('revision'))[:12]}, in training at {own.revision[:12]}"
    if measured["explained_variance"] < 0:
        yield "it reconstructs worse than the mean does: another layer, another side of it, or another scale"
    ratio = measured["l0"] / told["l0"] if told.get("l0") else 1.0
    if ratio > OTHER_TEXT.l0:
        yield "far more latents fire: its input is larger than in training, or BOS and other special tokens were kept"
    if ratio < 1 / OTHER_TEXT.l0:
        yield "far fewer latents fire: its input is smaller than in training, or normalised twice"
    if config.tokens is None and config.vocabulary is None:
        yield "its config does not say whether contexts began with BOS, nor which tokens were left out"
    if claim is not None and claim.data != report.data:
        yield f"the report is about {'; '.join(claim.data)}, this about {'; '.join(report.data)}"
    yield "the report was written for other weights, or by another version of the metric"
