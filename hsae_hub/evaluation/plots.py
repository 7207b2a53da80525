"""Reports as plots: a panel a unit, a row a number, a mark an SAE with its 95 % interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hsae_hub.evaluation.report import Report, Result

_WIDTH, _ROW = 6.4, 0.28  # inches
_LEFT_OUT = ("tokens", "squared activation", "%")


def plot(report: Report, path: Path) -> None:
    """Writes the numbers of a report, and of core the density of latents, as SVG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    saes = {name: _shown(results) for name, results in report.by_sae().items()}
    panels: dict[str, list[str]] = {}
    for results in saes.values():
        for name, each in results.items():
            if name not in panels.setdefault(each.unit, []):
                panels[each.unit].append(name)
    density = {
        name: details["density"]["all"]
        for name, details in _details(report).items()
        if "density" in details
    }
    heights = [max(len(names), 2) * _ROW + 0.6 for names in panels.values()]
    heights += [2.4] if density else []
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (unit, names) in zip(axes, panels.items(), strict=False):
        _dots(axis, saes, names)
        axis.set_xlabel(unit, fontsize=8)
    if density:
        _densities(axes[-1], density)
    if len(saes) > 1:
        axes[0].legend(fontsize=8)
    figure.suptitle(f"{report.name}: {report.tokens:,} tokens, 95 % intervals", fontsize=10)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _shown(results: list[Result]) -> dict[str, Result]:
    return {each.name: each for each in results if each.unit not in _LEFT_OUT}


def _details(report: Report) -> dict[str, dict[str, Any]]:
    return {"sae": report.details} | {name: each.details for name, each in report.beside.items()}


def _dots(axis: Any, saes: dict[str, dict[str, Result]], names: list[str]) -> None:
    for number, (sae, results) in enumerate(saes.items()):
        shift = (number - (len(saes) - 1) / 2) * 0.6 / max(len(saes), 1)
        shown = [(i + shift, results[name]) for i, name in enumerate(names) if name in results]
        if not shown:
            continue
        below = [each.value - each.low if each.low is not None else 0.0 for _, each in shown]
        above = [each.high - each.value if each.high is not None else 0.0 for _, each in shown]
        errors = [[max(each, 0.0) for each in side] for side in (below, above)]
        places, values = [place for place, _ in shown], [each.value for _, each in shown]
        axis.errorbar(values, places, xerr=errors, fmt="o", ms=4, capsize=2, label=sae)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(alpha=0.3)


def _densities(axis: Any, density: dict[str, Any]) -> None:
    for name, each in density.items():
        edges = each["log10_density"]
        axis.stairs(each["latents"], edges, label=f"{name}, {each['dead']:,} dead")
    axis.set_xlabel("log10 of the share of tokens on which a latent acts", fontsize=8)
    axis.set_ylabel("latents", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
