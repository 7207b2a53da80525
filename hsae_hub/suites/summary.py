"""From what was measured, seed by seed, to means with intervals, a table, and a verdict on each claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from hsae_hub.suites.schema import Claim, LoadedSuite, Suite

Verdict = Literal["holds", "does not hold", "undecided"]


class Estimate(BaseModel):
    """Mean over seeds, and half the width of its 95 % interval (Student's t); None where there is but one seed."""

    model_config = ConfigDict(frozen=True)

    mean: float
    half_width: float | None
    values: list[float]

    def __str__(self) -> str:
        digits = _digits(self)
        spread = "" if self.half_width is None else f" ± {self.half_width:.{digits}f}"
        return f"{self.mean:,.{digits}f}{spread}"


class Judged(BaseModel):
    """A claim, and what was measured of it: its metric, or the difference of its two rows within each seed."""

    model_config = ConfigDict(frozen=True)

    text: str
    metric: str
    measured: Estimate
    verdict: Verdict


class Results(BaseModel):
    """A suite that was run."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_: Literal["hsae.suite/1"] = Field(default="hsae.suite/1", alias="schema")
    name: str
    command: str
    suite: Suite
    estimates: dict[str, dict[str, Estimate]]
    """By row and metric; a metric that a row does not have is not there."""
    claims: list[Judged]


def summarise(
    loaded: LoadedSuite,
    measured: Mapping[str, Sequence[Mapping[str, int | float]]],
    *,
    command: str,
) -> Results:
    """Means and intervals of every metric that all seeds of a row have, and a verdict on each claim."""
    suite = loaded.suite
    values = {
        row: {
            metric: [float(one[metric]) for one in seeds]
            for metric in seeds[0]
            if all(metric in one for one in seeds)
        }
        for row, seeds in measured.items()
    }
    return Results(
        name=loaded.name,
        command=command,
        suite=suite,
        estimates={
            row: {metric: estimate(numbers) for metric, numbers in found.items()}
            for row, found in values.items()
        },
        claims=[_judge(claim, values) for claim in suite.claims],
    )


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of at least one value, and half the width of its 95 % interval."""
    from scipy.stats import t

    n = len(values)
    half = None
    if n > 1:
        half = float(t.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n)
    return Estimate(mean=mean(values), half_width=half, values=list(values))


def _judge(claim: Claim, values: Mapping[str, Mapping[str, list[float]]]) -> Judged:
    found = values[claim.row].get(claim.metric, [])
    if claim.than is not None:
        other = values[claim.than].get(claim.metric, [])
        found = [a - b for a, b in zip(found, other, strict=True)] if other else []
    measured = estimate(found or [math.nan])
    sign = 1 if claim.sign == "higher" else -1
    over, half = sign * (measured.mean - claim.margin), measured.half_width
    verdict: Verdict = "undecided"
    if half is not None and abs(over) > half:
        verdict = "holds" if over > 0 else "does not hold"
    return Judged(text=claim.text, metric=claim.metric, measured=measured, verdict=verdict)


def markdown(results: Results) -> str:
    """The command, the table, with the paper's figures beside ours, and the claims with their verdicts."""
    suite = results.suite
    n = len(suite.seeds)
    what = f"Mean ± half of the 95 % interval over {n} seeds" if n > 1 else "One seed, no interval"
    head, rows = _table(results)
    lines = [
        f"**{suite.title}** — {suite.paper}",
        "",
        f"`{results.command}`",
        "",
        f"{what}, on what was held out"
        + ("; beside it what the paper has." if len(head) > 1 + len(suite.metrics) else "."),
        "",
        _line(head),
        _line(["---"] + ["---:"] * (len(head) - 1)),
        *map(_line, rows),
    ]
    if results.claims:
        lines += ["", _line(["claim", "measured", "here"]), _line(["---", "---:", "---"])]
        lines += [
            _line([judged.text, f"{title(claim.metric)} {_signed(claim, judged)}", judged.verdict])
            for claim, judged in zip(suite.claims, results.claims, strict=True)
        ]
    return "\n".join(lines)


def _table(results: Results) -> tuple[list[str], list[list[str]]]:
    suite = results.suite
    cited = {metric for row in suite.rows.values() for metric in row.paper}
    head, rows = [""], [[suite.label(name)] for name in suite.rows]
    for metric in suite.metrics:
        head.append(title(metric))
        for cells, name in zip(rows, suite.rows, strict=True):
            found = results.estimates[name].get(metric)
            cells.append("" if found is None else str(found))
        if metric in cited:
            head.append("paper")
            for cells, row in zip(rows, suite.rows.values(), strict=True):
                cells.append(f"{row.paper[metric]:,g}" if metric in row.paper else "")
    return head, rows


def title(metric: str) -> str:
    """What people call a metric."""
    words = {"ce": "CE", "kl": "KL", "l0": "L0", "mse": "MSE"}
    return " ".join(words.get(word, word) for word in metric.split("_"))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _signed(claim: Claim, judged: Judged) -> str:
    is_rise = claim.than is not None and judged.measured.mean > 0
    return f"+{judged.measured}" if is_rise else str(judged.measured)


def _digits(found: Estimate) -> int:
    """Decimals that show two digits of the interval, or four of the mean; at most four."""
    size = abs(found.mean) / 100 if found.half_width is None else found.half_width
    if not math.isfinite(size):
        return 0
    if size <= 1e-9 * abs(found.mean):  # rounding alone
        return 0 if math.isclose(found.mean, round(found.mean)) else 4
    return min(max(1 - math.floor(math.log10(size)), 0), 4)
