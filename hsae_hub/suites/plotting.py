"""Plots of a suite: lines over x where its rows have one, else a dot with its interval for each row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hsae_hub.suites.summary import Results, title

_PANEL = (4.6, 3.4)  # inches


def plot(results: Results, path: Path) -> None:
    """Writes the suite's `plot` metrics, a panel each, as PNG or SVG by the ending of `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    suite = results.suite
    lines = any(row.x is not None for row in suite.rows.values())
    height = _PANEL[1] if lines else max(_PANEL[1], 0.32 * len(suite.rows) + 1)
    figure = Figure(figsize=(_PANEL[0] * len(suite.plot), height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(suite.plot), squeeze=False, sharey=not lines)[0]
    for panel, metric in zip(axes, suite.plot, strict=True):
        (_lines if lines else _dots)(panel, results, metric)
        panel.set_title(title(metric))
        panel.grid(alpha=0.3)
    figure.suptitle(f"{suite.title} ({len(suite.seeds)} seeds, 95 % intervals)", fontsize=10)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _lines(panel: Any, results: Results, metric: str) -> None:
    suite = results.suite
    series: dict[str, list[tuple[float, float, float]]] = {}
    for name, row in suite.rows.items():
        found = results.estimates[name].get(metric)
        if row.x is not None and found is not None:
            points = series.setdefault(row.series or suite.label(name), [])
            points.append((row.x, found.mean, found.half_width or 0.0))
    for label, points in series.items():
        xs, means, halves = zip(*sorted(points), strict=True)
        panel.errorbar(xs, means, halves, marker="o", capsize=3, label=label)
    panel.set_xscale("log", base=2)
    ticks = sorted({x for points in series.values() for x, _, _ in points})
    panel.set_xticks(ticks, [f"{x:g}" for x in ticks])
    panel.set_xlabel(suite.x_label)
    panel.legend(fontsize=8)


def _dots(panel: Any, results: Results, metric: str) -> None:
    suite = results.suite
    names = list(suite.rows)
    for place, name in enumerate(names):
        found = results.estimates[name].get(metric)
        if found is not None:
            panel.errorbar(found.mean, place, xerr=found.half_width or 0.0, fmt="o", capsize=3)
    panel.set_yticks(range(len(names)), [suite.label(name) for name in names], fontsize=8)
    if not panel.yaxis_inverted():
        panel.invert_yaxis()
