"""What a suite says: rows, each an SAE of a recipe, and what a paper claims of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from hsae_hub.problems import key_paths, problems_of
from hsae_hub.recipes import find_suite
from hsae_hub.recipes.refusing import place_of, refusal
from hsae_hub.recipes.schema import Name, Text
from hsae_hub.recipes.text import parse


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Row(_Part):
    """One SAE of the comparison."""

    recipe: Text
    """Recipe that it is in, by file or name."""
    sae: Text = "sae"
    """Which SAE of that recipe: `sae`, `baseline`, or a name of its `also`."""
    set: dict[str, Any] = {}
    """Keys of the recipe that are changed, such as `sae.k: 16`."""
    label: Text | None = None
    """What the table calls it; the row's name without."""
    series: Text | None = None
    """Line of the plot that it is a point of, at `x`."""
    x: float | int | None = None
    """Where on that line it lies."""
    paper: dict[str, float | int] = {}
    """What the paper has for it, by metric."""


class Claim(_Part):
    """Something that a paper says, and what would have to be measured for it to hold here."""

    text: Text
    metric: Text
    row: Name
    """The row whose metric is asked."""
    than: Name | None = None
    """The row that it is compared with, seed by seed."""
    sign: Literal["higher", "lower"] = "higher"
    margin: float | int = 0
    """The number that the metric, or the difference of the two rows', has to lie above (below for `lower`)."""


class Suite(_Part):
    """A paper's comparison."""

    title: Text
    paper: Text
    """What is rerun: the paper, its table, and what it was measured on."""
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    """Each row is trained once a seed; everything random follows from it."""
    metrics: Annotated[list[Text], Field(min_length=1)]
    """Columns of the table, as `hsae eval` names them."""
    plot: list[Text] = []
    """Metrics that are plotted, a panel each."""
    x_label: str = ""
    """What `x` of the rows is."""
    rows: Annotated[dict[Name, Row], Field(min_length=1)]
    claims: list[Claim] = []

    @model_validator(mode="after")
    def _claims_are_about_rows(self) -> Suite:
        for number, claim in enumerate(self.claims):
            for name in (claim.row, claim.than):
                if name is not None and name not in self.rows:
                    raise ValueError(
                        f"claims.{number} names row {name!r}; there are {', '.join(self.rows)}"
                    )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds (={self.seeds}) must differ")
        return self

    def label(self, name: str) -> str:
        """What the table calls a row."""
        return self.rows[name].label or name


class LoadedSuite(NamedTuple):
    """A suite with where it comes from."""

    suite: Suite
    name: str
    """`gemma2-tiny-en/feature-groups` for a shipped suite, else the file's name without its ending."""
    other_seeds: bool = False
    """Whether its seeds are not those of the file."""


def load_suite(ref: str | Path) -> LoadedSuite:
    """Reads a suite by path or shipped name.

    Raises:
        NotFoundError: there is no such suite.
        UsageError: it cannot be meant; `problems` has one line for each.
    """
    file = find_suite(ref)
    parsed = parse(file.text(), str(file.path))
    found = list(parsed.problems)
    try:
        suite = Suite.model_validate_json(json.dumps(parsed.data), strict=True)
    except ValidationError as error:
        told = problems_of(error, key_paths(Suite))
        found += [(place_of(problem.loc, parsed.places), problem) for problem in told]
    if found:
        raise refusal("suite", found)
    return LoadedSuite(suite, file.name)
