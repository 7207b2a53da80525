"""What a benchmark found: readings, ratios taken within a round, slopes; as data that a JSON file keeps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from harness.timing import Took


class _Record(BaseModel, extra="forbid"):
    """Written to JSON and read back, with nothing unknown in it."""


class Spread(_Record):
    """A median with its quartiles."""

    median: float
    low: float
    high: float


class Reading(_Record):
    """One thing that was measured, once a round."""

    name: str
    unit: str
    values: list[float]
    cpu: list[float] | None = None
    """Seconds of the processor, where `values` are seconds of the clock."""
    spread: Spread
    bar: float | None = None
    """The most that its median may be."""


class Ratio(_Record):
    """Two readings, one divided by the other within each round."""

    of: str
    over: str
    values: list[float]
    spread: Spread
    cpu: Spread | None = None
    """The same by the processor's time."""
    bar: float | None = None
    """The most that its median may be."""


class Slope(_Record):
    """How a reading grows: the exponent of a power law, fitted to all rounds on logarithmic axes."""

    of: str
    over: str
    """What was varied."""
    points: dict[str, list[float]]
    """What was read, a value a round, at each size."""
    slope: float
    low: float
    high: float
    """95 % interval of the fit."""


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; of one value, that value."""
    if len(values) == 1:
        return Spread(median=values[0], low=values[0], high=values[0])
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median=statistics.median(values), low=low, high=high)


class Findings(_Record):
    """All that one part of the benchmarks found."""

    part: str
    title: str
    sizes: dict[str, int | float | str] = {}
    """What it was measured at."""
    readings: list[Reading] = []
    ratios: list[Ratio] = []
    slopes: list[Slope] = []
    notes: list[str] = []
    seconds: float = 0.0
    """What the part took in all."""
    error: str | None = None
    """Why it has no findings, or not all of them."""

    def add_times(self, times: Mapping[str, Sequence[Took]], *, bar: float | None = None) -> None:
        """Keeps what every way took, in seconds; with `bar` the median of each may be at most that."""
        for name, took in times.items():
            cpu = [each.cpu for each in took]
            self.add(name, [each.wall for each in took], "s", cpu=cpu, bar=bar)

    def add(
        self,
        name: str,
        values: Sequence[float],
        unit: str,
        *,
        cpu: Sequence[float] | None = None,
        bar: float | None = None,
    ) -> None:
        """Keeps a reading of any kind, a value a round."""
        if any(reading.name == name for reading in self.readings):
            raise ValueError(f"{self.part} has a reading {name!r} already")
        own = None if cpu is None else list(cpu)
        self.readings.append(
            Reading(
                name=name, unit=unit, values=list(values), cpu=own, spread=spread(values), bar=bar
            )
        )

    def ratio(self, of: str, over: str, *, bar: float | None = None) -> None:
        """Keeps `of` / `over`, round by round, which has to be at most `bar`."""
        a, b = self.reading(of), self.reading(over)
        values = [x / y for x, y in zip(a.values, b.values, strict=True)]
        cpu = None
        if a.cpu and b.cpu and min(b.cpu) > 0:
            cpu = spread([x / y for x, y in zip(a.cpu, b.cpu, strict=True)])
        found = Ratio(of=of, over=over, values=values, spread=spread(values), cpu=cpu, bar=bar)
        self.ratios.append(found)

    def slope(self, of: str, over: str, times: Mapping[str, Sequence[Took]]) -> None:
        """Keeps the exponent with which what `times` says, by size, grows with that size: two of them at least."""
        from scipy.stats import linregress, t

        points = {size: [each.wall for each in took] for size, took in times.items()}
        pairs = [(math.log(float(s)), math.log(v)) for s, values in points.items() for v in values]
        fit = linregress([x for x, _ in pairs], [y for _, y in pairs])
        reach = float(t.ppf(0.975, len(pairs) - 2)) * float(fit.stderr) if len(pairs) > 2 else 0.0
        middle = float(fit.slope)
        self.slopes.append(
            Slope(
                of=of,
                over=over,
                points=points,
                slope=middle,
                low=middle - reach,
                high=middle + reach,
            )
        )

    def reading(self, name: str) -> Reading:
        """The one of that name."""
        return next(reading for reading in self.readings if reading.name == name)
