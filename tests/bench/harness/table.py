"""One table of everything that was found."""

from __future__ import annotations

from collections.abc import Sequence

from harness.findings import Findings, Ratio, Reading, Slope, Spread

HEAD = ("part", "what", "beside", "ratio [quartiles]", "by CPU", "bar", "", "took", "beside took")


def lines(parts: Sequence[Findings], *, judged: bool) -> list[str]:
    """Every ratio, barred reading and slope as a line of one table, then notes and errors.

    `judged` says whether bars hold for these sizes.
    """
    rows = [HEAD]
    for found in parts:
        rows += [_ratio_row(found, ratio, judged) for ratio in found.ratios]
        rows += [
            _reading_row(found, each, judged) for each in found.readings if _alone(found, each)
        ]
        rows += [_slope_row(found, slope) for slope in found.slopes]
        if found.error is not None:
            rows.append((found.part, f"failed: {found.error}", *[""] * 7))
    widths = [max(len(row[i]) for row in rows if "failed" not in row[1]) for i in range(len(HEAD))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    notes = [f"{found.part}: {note}" for found in parts for note in found.notes]
    return [*table, *([""] if notes else []), *notes]


def number(value: float) -> str:
    """Three digits that matter, without an exponent."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{3 if abs(value) < 0.1 else 2}f}"


def amount(value: float, unit: str) -> str:
    """A value with its unit: seconds and bytes in the multiple that fits."""
    steps = {
        "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs")),
        "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")),
    }
    for size, name in steps.get(unit, ()):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g} {unit}"


def told(values: Spread) -> str:
    """`median [low, high]`."""
    return f"{number(values.median)} [{number(values.low)}, {number(values.high)}]"


def _alone(found: Findings, reading: Reading) -> bool:
    """Whether it is in no ratio, or has a bar of its own."""
    used = {name for ratio in found.ratios for name in (ratio.of, ratio.over)}
    return reading.bar is not None or reading.name not in used


def _verdict(median: float, bar: float | None, judged: bool) -> tuple[str, str]:
    if bar is None:
        return "", ""
    return f"≤ {bar:g}", ("holds" if median <= bar else "MISSED") if judged else "-"


def _ratio_row(found: Findings, ratio: Ratio, judged: bool) -> tuple[str, ...]:
    of, over = found.reading(ratio.of), found.reading(ratio.over)
    cpu = "" if ratio.cpu is None else number(ratio.cpu.median)
    return (
        *(found.part, ratio.of, ratio.over, told(ratio.spread), cpu),
        *_verdict(ratio.spread.median, ratio.bar, judged),
        *(amount(each.spread.median, each.unit) for each in (of, over)),
    )


def _reading_row(found: Findings, reading: Reading, judged: bool) -> tuple[str, ...]:
    verdict = _verdict(reading.spread.median, reading.bar, judged)
    values = reading.spread
    spread = f"{amount(values.low, reading.unit)} to {amount(values.high, reading.unit)}"
    return (
        found.part,
        reading.name,
        "",
        spread,
        "",
        *verdict,
        amount(values.median, reading.unit),
        "",
    )


def _slope_row(found: Findings, slope: Slope) -> tuple[str, ...]:
    sizes = list(slope.points)
    ends = f"{slope.over}, {sizes[0]} to {sizes[-1]}"
    fit = f"grows by ^{slope.slope:.2f} [{slope.low:.2f}, {slope.high:.2f}]"
    return (found.part, slope.of, ends, fit, "", "", "", "", "")
