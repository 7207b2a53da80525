"""What every measurement writes: results with their intervals, on what they were measured, and how to do it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hsae_hub.artifact import REPORTS, write_atomic


class Result(BaseModel):
    """One number, with its 95 % interval where it has one."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    """Empty for shares, scores and other pure numbers."""


class Measured(NamedTuple):
    """What one task found of one SAE."""

    results: list[Result]
    details: dict[str, Any]
    """Whatever a reader may want beside the results; plain data."""

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Measured:
        """Reads what `to_data` gave."""
        return cls([Result(**each) for each in data["results"]], data["details"])

    def to_data(self) -> dict[str, Any]:
        """As plain data."""
        return {"results": [each.model_dump() for each in self.results], "details": self.details}


class Other(BaseModel):
    """An SAE that was measured beside the one the report is about."""

    model_config = ConfigDict(frozen=True)

    sha256: str | None
    results: list[Result]
    details: dict[str, Any] = {}


class Report(BaseModel):
    """`eval/NAME.json`: one task's numbers of one SAE, and of those beside it."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_: str = Field(alias="schema")
    """`hsae.eval.NAME/1`."""
    command: str
    tokens: int
    """Activations that were measured: no special tokens."""
    seed: int
    sha256: str | None
    """Of the measured weights, where they came from a file; a card ignores a report about others."""
    model: dict[str, str | None]
    """Id and revision of the language model."""
    hookpoint: str
    data: list[str]
    """One line a source of text."""
    settings: dict[str, Any] = {}
    """What the task was told, its defaults included."""
    results: list[Result]
    details: dict[str, Any] = {}
    beside: dict[str, Other] = {}
    """The other SAEs by their names, such as `baseline`."""

    @property
    def name(self) -> str:
        """The task: `core`, `absorption` …"""
        return self.schema_.removeprefix("hsae.eval.").partition("/")[0]

    def by_sae(self) -> dict[str, list[Result]]:
        """The results of every SAE; the one that the report is about is `sae`."""
        return {"sae": self.results} | {name: each.results for name, each in self.beside.items()}

    def save(self, folder: Path) -> Path:
        """Writes the report where the card of a run folder finds it."""
        path = folder / REPORTS / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, self.model_dump_json(indent=2, by_alias=True) + "\n")
        return path


def schema_of(task: str) -> str:
    """What a report of a task is called inside."""
    return f"hsae.eval.{task}/1"


class CoreReport(Report):
    """Everything that was measured, and on what; `saes` holds `sae` and, by their names, those beside it."""

    contexts: int
    """0 for rows, which stand in none."""
    weights: dict[str, str]
    """sha256 of the measured weights by SAE, where they came from a file."""
    saes: dict[str, dict[str, int | float]]
    """Metrics by name, without their intervals."""

    @model_validator(mode="before")
    @classmethod
    def _from_before_intervals(cls, data: Any) -> Any:
        """Reports of the first releases hold `saes` and `weights` alone."""
        if not isinstance(data, dict) or "results" in data:
            return data
        found = {
            name: [{"name": key, "value": value} for key, value in numbers.items()]
            for name, numbers in data.get("saes", {}).items()
        }
        weights = data.get("weights", {})
        others = {
            name: {"sha256": weights.get(name), "results": results}
            for name, results in found.items()
            if name != "sae"
        }
        return data | {
            "sha256": weights.get("sae"),
            "results": found.get("sae", []),
            "beside": others,
        }
