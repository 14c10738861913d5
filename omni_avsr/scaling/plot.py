"""The picture of fitted laws: points, laws with their bands, and where they leave the points."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from omni_avsr.plots import CURVE_COLORS, MARKERS, new_figure, save_figure
from omni_avsr.scaling.plan import BEYOND
from omni_avsr.scaling.results import ScalingLaws, StrategyFit
from omni_avsr.scaling.samples import sampling_variance, variables_of


def plot_laws(path: Path, laws: ScalingLaws) -> None:
    """PNG of error against training compute: runs with 95 % intervals of their tests, laws with bands.

    Laws of compute alone are lines, dashed beyond the points; joint laws, which are no line over compute, are crosses
    at the points' own sizes and data.
    """
    figure, axes = new_figure("")
    fits = {fit.strategy: fit for fit in laws.fits}
    strategies = [*fits, *laws.refusals]
    looks = zip(itertools.cycle(CURVE_COLORS), itertools.cycle(MARKERS))
    for strategy, (color, marker) in zip(strategies, looks, strict=False):
        points = laws.points_of(strategy)
        flops, errors = np.array([(point.flops, point.error) for point in points]).T
        reach = np.exp(1.96 * np.sqrt(sampling_variance(points)))
        bars = 100 * np.array([errors - errors / reach, errors * reach - errors])
        look: dict[str, Any] = {"color": color, "linestyle": "none", "marker": marker, "markersize": 4}
        formula = fits[strategy].law.formula if strategy in fits else "no law"
        axes.errorbar(flops, 100 * errors, bars, elinewidth=0.8, capsize=2, label=f"{strategy}: {formula}", **look)
        if strategy in fits:
            _draw_law(axes, fits[strategy], variables_of(points), color)
    axes.set(xscale="log", yscale="log", xlabel="training compute (FLOPs)", ylabel=f"{laws.measure} (%)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter() if _spans_a_decade(axes) else FuncFormatter(lambda v, _: f"{v:g}"))
    axes.legend()
    save_figure(path, figure)


def _draw_law(axes: Axes, fit: StrategyFit, values: np.ndarray, color: str) -> None:
    if fit.law.variables != ("flops",):
        predicted = fit.predict(values, "law")
        centre, low, high = 100 * np.array([(p.value, p.low, p.high) for p in predicted]).T
        axes.errorbar(values[:, 0], centre, (centre - low, high - centre), color=color, fmt="x", alpha=0.5)
        return
    first, last = values[:, 0].min(), values[:, 0].max()
    for start, end, dashes in ((first, last, "-"), (last, BEYOND * last, "--")):
        grid = np.geomspace(start, end, 60)
        # Rivals of the law may have other variables: these stand at their means.
        others = np.broadcast_to(fit.reference_row[1:], (len(grid), values.shape[1] - 1))
        predicted = fit.predict(np.column_stack([grid, others]), "law")
        centre, low, high = 100 * np.array([(p.value, p.low, p.high) for p in predicted]).T
        axes.plot(grid, centre, color=color, linestyle=dashes)
        axes.fill_between(grid, low, high, color=color, alpha=0.15, linewidth=0)


def _spans_a_decade(axes: Axes) -> bool:
    low, high = axes.get_ylim()
    return high / low >= 10
