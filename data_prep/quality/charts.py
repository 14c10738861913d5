"""Histograms as SVG pictures inside a page, each in a light and in a dark version."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from data_prep.quality.markup import plain

_SIZE = (4.6, 2.4)  # inches
_MARGINS = {"left": 0.145, "right": 0.965, "bottom": 0.19, "top": 0.97}
_MAX_NAME = 24
# An area and lines of several dashes: where they coincide, all of them are seen.
_DASHES: tuple[Any, ...] = (None, "-", (0, (4, 2)), (0, (1, 1.5)))


@dataclass(frozen=True)
class Theme:
    """Colours of a chart. groups: Okabe and Ito's palette, which stays distinct under colour blindness."""

    ink: str
    grid: str
    groups: tuple[str, ...]


LIGHT = Theme("#4b5563", "#e5e7eb", ("#0072B2", "#D55E00", "#009E73", "#CC79A7"))
DARK = Theme("#a3adba", "#30363f", ("#56B4E9", "#E69F00", "#35C29A", "#E39CC5"))


def histogram(
    values: Mapping[str, np.ndarray], edges: np.ndarray, label: str, theme: Theme, logarithmic: bool = False
) -> str:
    """A data URI of the histogram of up to four groups of values.

    One group is drawn as bars of clips; several as shares of each group, for their sizes may differ a hundredfold.
    Values beyond the edges count in the first or last bin. Same arguments, same bytes.
    """
    looks: dict[str, Any] = {
        "svg.hashsalt": "omni_avsr",
        "svg.fonttype": "path",
        "text.parse_math": False,
        "font.size": 9,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.grid,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
    }
    # What the user's own matplotlib settings say must not show.
    with style.context(["default", looks]):
        figure = Figure(figsize=_SIZE)
        FigureCanvasSVG(figure)
        axes = figure.subplots(gridspec_kw=_MARGINS)
        _draw(axes, values, edges, theme, logarithmic)
        axes.set_xlabel(label)
        picture = io.BytesIO()
        figure.savefig(picture, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{b64encode(picture.getvalue()).decode('ascii')}"


def _draw(axes: Axes, values: Mapping[str, np.ndarray], edges: np.ndarray, theme: Theme, logarithmic: bool) -> None:
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.tick_params(which="both", length=0, pad=5)
    axes.set_xlim(edges[0], edges[-1] + 0.01 * (edges[-1] - edges[0]))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=bool(edges[0] < 0)))
    counts = {name: np.histogram(np.clip(group, edges[0], edges[-1]), edges)[0] for name, group in values.items()}
    if logarithmic:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=len(counts) == 1))
    if len(counts) == 1:
        (heights,) = counts.values()
        axes.stairs(heights, edges, fill=True, color=theme.groups[0])
        axes.set_ylabel("clips")
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    else:
        for (name, heights), color, dashes in zip(counts.items(), theme.groups, _DASHES, strict=False):
            shares = 100 * heights / heights.sum()
            label = f" {plain(name, _MAX_NAME)}"  # matplotlib leaves out what begins with an underscore
            if dashes is None:
                axes.stairs(shares, edges, color=color, fill=True, alpha=0.35, label=label)
            else:
                axes.stairs(shares, edges, color=color, linestyle=dashes, linewidth=1.5, label=label)
        axes.set_ylabel("% of the split's clips")
        axes.legend(frameon=False, handlelength=1.6, handletextpad=0.4)
    if logarithmic:
        axes.set_ylim(bottom=0.5)
