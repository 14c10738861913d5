"""The plots of the experiment, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from systems import DEPTHS, SEED, SETTINGS, WEIGHTS, System

from omni_avsr.bootstrap import bootstrap_interval
from omni_avsr.error_counts import ClipCounts, wer
from omni_avsr.files import replacing
from omni_avsr.types import Modality, Task

FRAMES_PER_SECOND = {Modality.AUDIO: 50, Modality.VIDEO: 25}
POOL_TITLES = {"pool-2": "2 only", "pool-4": "4 only", "pool-all": "2, 4, 6, 8, 10 and 16"}
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's palette."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def tokens_per_second(task: Task, rates: str) -> float:
    """What the LLM reads of a second of speech."""
    pairs = zip(task.modalities, rates.split(","), strict=True)
    return sum(FRAMES_PER_SECOND[modality] / int(rate) for modality, rate in pairs)


def plot_settings(path: Path, systems: Sequence[System]) -> None:
    """WER of each system in each of the eight settings and on average, in clean speech."""
    chosen = _main(systems)
    axes = _axes()
    for index, system in enumerate(chosen):
        shift = 0.09 * (index - (len(chosen) - 1) / 2)
        clips = [*(system.counts[*setting, None] for setting in SETTINGS), system.average()]
        _errorbar(axes, np.arange(len(clips)) + shift, clips, index, system.name, line="none")
    axes.set_xticks(range(len(SETTINGS) + 1), [*(f"{task.upper()}\n{rates}" for task, rates in SETTINGS), "mean"])
    _finish(path, axes, "")


def plot_tokens(path: Path, systems: Sequence[System]) -> None:
    """WER of AVSR against the LLM's tokens per second of speech."""
    axes = _axes()
    for index, system in enumerate(_main(systems)):
        settings = [setting for setting in SETTINGS if setting[0] is Task.AVSR]
        settings.sort(key=lambda setting: tokens_per_second(*setting))
        x = np.array([tokens_per_second(*setting) for setting in settings])
        _errorbar(axes, x + 0.1 * index, [system.counts[*setting, None] for setting in settings], index, system.name)
    _finish(path, axes, "LLM tokens per second of speech (AVSR at 16,5; 16,2; 4,5; 4,2)")


def plot_noise(path: Path, systems: Sequence[System]) -> None:
    """WER of ASR (dashed) and AVSR in babble, mean over the rates."""
    axes = _axes()
    for index, system in enumerate(system for system in systems if system.levels):
        for task, line in ((Task.ASR, "--"), (Task.AVSR, "-")):
            clips = [system.in_noise(task, level) for level in system.levels]
            x = np.array(system.levels) + 0.12 * index
            _errorbar(axes, x, clips, index, f"{task.upper()}, {system.name}", line)
    axes.set_xticks(sorted({level for system in systems for level in system.levels}))
    _finish(path, axes, "SNR (dB)")


def plot_pooling(path: Path, pooled: Mapping[str, Mapping[int, Sequence[ClipCounts]]]) -> None:
    """WER of ASR against the rate, for a model trained at one rate and for one trained at all."""
    axes = _axes()
    for index, (arm, row) in enumerate(pooled.items()):
        _errorbar(axes, np.array(list(row)), list(row.values()), index, f"trained at {POOL_TITLES[arm]}")
    _finish(path, axes, "audio rate: frames to a token")


def _main(systems: Sequence[System]) -> list[System]:
    """The paper's strategies and their baselines: one seed, no ablations."""
    return [s for s in systems if s.seed == SEED and s.family not in (*WEIGHTS, *DEPTHS, "no-norm")]


def _axes() -> Axes:
    figure = Figure(figsize=(8.0, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _errorbar(
    axes: Axes, x: np.ndarray, points: Sequence[Sequence[ClipCounts]], index: int, label: str, line: str = "-"
) -> None:
    """Rates in percent with their intervals."""
    rates = np.array([wer(clips) for clips in points])
    bounds = [bootstrap_interval(clips, seed=SEED) for clips in points]
    below = np.maximum(0, rates - [interval.low for interval in bounds])
    above = np.maximum(0, [interval.high for interval in bounds] - rates)
    look = {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)], "linestyle": line}
    axes.errorbar(x, 100 * rates, 100 * np.stack([below, above]), label=label, capsize=2, elinewidth=0.8, **look)


def _finish(path: Path, axes: Axes, label: str) -> None:
    axes.set(xlabel=label, ylabel="WER (%)", ylim=(0, None))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    with replacing(path) as temporary:
        axes.figure.savefig(temporary, format="png")
