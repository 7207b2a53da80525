"""Every ratio with its quartiles beside its bar, and every slope with its points, in one figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from harness.findings import Slope, spread
from harness.report import Report

matplotlib.use("Agg")
from matplotlib import pyplot as plt

OURS, BAR, MISSED = "#1f6f8b", "#444444", "#c0392b"


def draw(report: Report, path: Path) -> list[Path]:
    """Writes the figure as PNG and as SVG beside each other; returns both paths."""
    ratios = [(found.part, each) for found in report.parts for each in found.ratios]
    slopes = [slope for found in report.parts for slope in found.slopes]
    height = 1.6 + 0.27 * max(len(ratios), 6 * len(slopes), 6)
    figure, sides = plt.subplots(
        1, 2, figsize=(14, height), width_ratios=(3, 2 if slopes else 0.01), layout="constrained"
    )
    _draw_ratios(sides[0], ratios, judged=not report.quick)
    if slopes:
        _draw_slopes(sides[1], slopes)
    else:
        sides[1].set_axis_off()
    torch = report.versions.get("torch", "")
    figure.suptitle(f"{report.date} · torch {torch} · {report.machine.processor}", fontsize=9)
    written = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for each in written:
        figure.savefig(each, dpi=150)
    plt.close(figure)
    return written


def _draw_ratios(axes: Any, ratios: list[Any], *, judged: bool) -> None:
    for row, (_, ratio) in enumerate(ratios):
        middle, low, high = ratio.spread.median, ratio.spread.low, ratio.spread.high
        is_missed = judged and ratio.bar is not None and middle > ratio.bar
        colour = MISSED if is_missed else OURS
        axes.plot([low, high], [row, row], color=colour, linewidth=2)
        axes.plot([middle], [row], "o", color=colour, markersize=5)
        if ratio.bar is not None:
            axes.plot([ratio.bar], [row], "|", color=BAR, markersize=13, markeredgewidth=2)
    names = [f"{part}: {ratio.of} / {ratio.over}" for part, ratio in ratios]
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(1, color="#cccccc", linewidth=1, zorder=0)
    axes.set_xlabel("ratio: median, quartiles, and the bar it is held to (|)")


def _draw_slopes(axes: Any, slopes: list[Slope]) -> None:
    for slope in slopes:
        sizes = [float(size) for size in slope.points]
        base = spread(slope.points[next(iter(slope.points))]).median
        middles = [spread(values).median / base for values in slope.points.values()]
        label = f"{slope.of}, {slope.over}: ^{slope.slope:.2f} [{slope.low:.2f}, {slope.high:.2f}]"
        axes.loglog([size / sizes[0] for size in sizes], middles, "o-", label=label, markersize=4)
    axes.set_xlabel("size, in multiples of the smallest")
    axes.set_ylabel("time, in multiples of that of the smallest")
    axes.legend(fontsize=7)
