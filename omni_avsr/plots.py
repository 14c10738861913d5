"""Plots of scores and of learning curves, as PNG files."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from omni_avsr.files import replacing
from omni_avsr.metrics import Score, Setting
from omni_avsr.types import MATCHED, Modality, Task

# Okabe and Ito's palette, which stays distinct under colour blindness; markers and dashes tell the rates apart too.
_COLORS = {
    Task.ASR: ("#0072B2", "#56B4E9"),
    Task.VSR: ("#D55E00", "#E69F00"),
    Task.AVSR: ("#009E73", "#00563F", "#CC79A7", "#7A3B69"),
}
CURVE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_DASHES: tuple[Any, ...] = ("-", "--", (0, (1, 1.2)), "-.")


def plot_wer_against_tokens(
    path: Path,
    scores: Iterable[Score],
    frame_rates: Mapping[Modality, float],
    *,
    snr_db: float | None = None,
    condition: str = MATCHED,
    title: str = "",
) -> None:
    """PNG of WER against the LLM's input tokens per second of speech, a line per task, under one SNR and condition.

    frame_rates: encoder frames per second by modality; a modality brings its frame rate / compression rate in tokens.
    """
    chosen = [s for s in scores if (s.setting.snr_db, s.setting.condition) == (snr_db, condition)]
    if not chosen:
        raise ValueError(f"no scores at SNR {snr_db} under condition {condition!r} to plot")
    figure, axes = new_figure(title)
    for task in Task:
        points = [s for s in chosen if s.setting.task is task]
        if points:
            points.sort(key=lambda s: _tokens_per_second(s.setting, frame_rates))
            x = [_tokens_per_second(s.setting, frame_rates) for s in points]
            _errorbar(
                axes, x, points, color=_COLORS[task][0], marker=MARKERS[list(Task).index(task)], label=task.upper()
            )
            for at, point in zip(x, points, strict=True):
                offset = {"textcoords": "offset points", "xytext": (5, 5), "fontsize": 8, "color": _COLORS[task][0]}
                axes.annotate(point.setting.rates, (at, 100 * point.wer), **offset)
    axes.set(xlabel="LLM tokens per second of speech", ylabel="WER (%)", ylim=(0, None), xlim=(0, None))
    axes.legend(title="at each point: rates", title_fontsize=8)
    save_figure(path, figure)


def plot_wer_against_snr(path: Path, scores: Iterable[Score], *, condition: str = MATCHED, title: str = "") -> None:
    """PNG of WER against SNR in dB, a line per task and rates, clean speech at the right end.

    A setting scored on clean speech alone, as VSR, which does not hear the noise, is a level line.
    """
    chosen = [s for s in scores if s.setting.condition == condition]
    levels = sorted({s.setting.snr_db for s in chosen if s.setting.snr_db is not None})
    if not levels:
        raise ValueError(f"no scores in noise under condition {condition!r} to plot")
    step = min(np.diff(levels), default=5.0)
    clean = levels[-1] + 1.5 * step
    columns: dict[tuple[Task, str], list[Score]] = {}
    # The settings of the columns come in the order of the legend, as if all were clean.
    for s in sorted(chosen, key=lambda s: (replace(s.setting, snr_db=None).sort_key, s.setting.sort_key)):
        columns.setdefault((s.setting.task, s.setting.rates), []).append(s)
    figure, axes = new_figure(title)
    handles: list[Any] = []
    for index, ((task, rates), points) in enumerate(columns.items()):
        nth = sum(other is task for other, _ in list(columns)[:index])
        color, dashes = _COLORS[task][nth % len(_COLORS[task])], _DASHES[nth % len(_DASHES)]
        look: dict[str, Any] = {"color": color, "linestyle": dashes, "label": f"{task.upper()} {rates}"}
        if all(s.setting.snr_db is None for s in points):
            handles.append(axes.axhline(100 * points[0].wer, linewidth=1.5, **look))
            interval = points[0].wer_interval
            axes.axhspan(100 * interval.low, 100 * interval.high, color=color, alpha=0.1, linewidth=0)
            continue
        # Side by side, so that the bars of settings with close WERs stay apart.
        shift = step * 0.03 * (index - (len(columns) - 1) / 2)
        x = [(clean if s.setting.snr_db is None else s.setting.snr_db) + shift for s in points]
        handles.append(_errorbar(axes, x, points, marker=MARKERS[nth % len(MARKERS)], **look))
    axes.set_xticks([*levels, clean], [*(f"{level:g}" for level in levels), "clean"])
    # A square-root scale shows 1 against 2 % as well as 30 against 60 %, and unlike a logarithm it has a zero.
    axes.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))
    top = axes.get_ylim()[1]
    axes.set_yticks([y for y in (0, 1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200) if y <= top])
    axes.set(xlabel="SNR (dB)", ylabel="WER (%), square-root scale", ylim=(0, top))
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save_figure(path, figure)


def read_curves(paths: Iterable[Path]) -> list[dict[str, float]]:
    """Rows of Lightning's CSV logs without their empty cells; of a step logged twice (a resume), the later one counts.

    A last line that a kill tore is left out. ValueError if a file has no ``step`` column or a cell is not a number.
    """
    rows: dict[int, dict[str, float]] = {}
    for path in paths:
        text = path.read_text()
        whole = text[: text.rfind("\n") + 1]
        for number, cells in enumerate(csv.DictReader(io.StringIO(whole)), start=2):
            try:
                row = {key: float(value) for key, value in cells.items() if value}
                step = int(row["step"])
            except (KeyError, ValueError) as error:
                raise ValueError(f"{path}:{number}: not a row of a log with a step: {cells}") from error
            rows.setdefault(step, {}).update(row)
    return [rows[step] for step in sorted(rows)]


def plot_learning_curve(
    path: Path,
    records: Sequence[Mapping[str, float]],
    *,
    losses: Sequence[str] = ("loss",),
    error_rates: Sequence[str] = ("wer",),
    title: str = "",
) -> None:
    """PNG of losses (with a running mean) and, if any are named, of error rates (fractions) against ``step``.

    records: rows that need not hold every name, as ``read_curves`` gives them; ValueError for a name that none holds.
    """
    panels = [
        (losses, 1.0, "loss (nats per token)"),
        *([(error_rates, 100.0, "error rate (%)")] if error_rates else []),
    ]
    figure, rows = new_figure(title, num_rows=len(panels))
    for axes, (names, scale, label) in zip(np.atleast_1d(rows), panels, strict=True):
        for name, color in zip(names, itertools.cycle(CURVE_COLORS), strict=False):
            points = np.array([(row["step"], scale * row[name]) for row in records if name in row])
            if len(points) == 0:
                known = ", ".join(sorted({key for row in records for key in row}))
                raise ValueError(f"no record has {name!r}; there are: {known}")
            if names is losses and len(points) > 50:
                axes.plot(*points.T, color=color, alpha=0.25, linewidth=0.8)
                axes.plot(*_running_mean(points, len(points) // 25).T, color=color, label=name)
            else:
                axes.plot(*points.T, color=color, marker="o", markersize=3, label=name)
        axes.legend()
        axes.set(ylabel=label)
        if names is error_rates:
            axes.set(ylim=(0, None))
    axes.set(xlabel="training step")
    save_figure(path, figure)


def _tokens_per_second(setting: Setting, frame_rates: Mapping[Modality, float]) -> float:
    rates = setting.rates.split(",")
    return sum(frame_rates[modality] / int(rate) for modality, rate in zip(setting.task.modalities, rates, strict=True))


def _running_mean(points: np.ndarray, width: int) -> np.ndarray:
    """[points, 2] -> [points - width + 1, 2]; both columns, so that a mean stands at the middle of its window."""
    return np.stack([np.convolve(column, np.full(width, 1 / width), mode="valid") for column in points.T], axis=1)


def _errorbar(axes: Axes, x: Sequence[float], points: Sequence[Score], **look: Any) -> ErrorbarContainer:
    below = [max(0.0, 100 * (s.wer - s.wer_interval.low)) for s in points]
    above = [max(0.0, 100 * (s.wer_interval.high - s.wer)) for s in points]
    wers = [100 * s.wer for s in points]
    return axes.errorbar(x, wers, (below, above), capsize=2.5, elinewidth=0.9, markersize=5, **look)


def new_figure(title: str, num_rows: int = 1) -> tuple[Figure, Any]:
    """A figure outside pyplot, so that no window system and no global state is involved, and its axes."""
    figure = Figure(figsize=(7.0, 4.2 if num_rows == 1 else 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, sharex=True)
    for one in np.atleast_1d(axes):
        one.grid(color="#dddddd", linewidth=0.7)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, axes


def save_figure(path: Path, figure: Figure) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
