"""Tables, laws and plots from results/*.jsonl, written beside this script.

python experiments/003-efin/summarize.py
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from curves import (
    RESULTS,
    Comparison,
    Curve,
    Line,
    choose_scales,
    chosen_lines,
    clip_errors,
    compare,
    flops_of,
    hypotheses_of,
    label_of,
    main_level,
    make_curves,
    read_lines,
    scaling_point,
)

from omni_avsr.bootstrap import Interval, bootstrap_interval
from omni_avsr.error_counts import Unit, count_errors, error_rate
from omni_avsr.files import write_atomically
from omni_avsr.plots import CURVE_COLORS, MARKERS, new_figure, save_figure
from omni_avsr.provenance import command_line, commit, today
from omni_avsr.scaling.estimate import fit_scaling
from omni_avsr.scaling.plot import plot_laws
from omni_avsr.scaling.points import ScalingPoint, write_points
from omni_avsr.scaling.results import ScalingLaws, write_laws
from omni_avsr.types import Modality, Task

log = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
SEED = 7
EFIN = "efin"
PAPER = "EFIN's paper: 21.1 % relative lower CER, 49.9 % fewer FLOPs."


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    summarize(RESULTS, HERE)


def summarize(results: Path, output: Path) -> None:
    """Write table.md, and for each task with a tuned strategy its points, laws and plots."""
    lines = read_lines(results)
    chosen = choose_scales(lines)
    sections = ["# 003: tables\n\nMade by `summarize.py`. " + PAPER]
    for task in Task:
        if own := chosen_lines(lines, chosen, task):
            curves = make_curves(own, "test", main_level(task), "characters")
            plot_curves(output / f"curves-{task}.png", own, curves, task)
            sections.append(_section(task, own, curves, chosen_lines(lines, chosen, task, decayed=True)))
            sections.append(_laws(output / str(task), list(points_of(own))))
    write_atomically(output / "table.md", "\n\n".join(sections) + "\n")


def points_of(lines: Iterable[Line]) -> Iterator[ScalingPoint]:
    """Points for laws; one without any error has no logarithm and is left out, with a warning."""
    for line in lines:
        try:
            yield scaling_point(line)
        except ValueError as error:
            log.warning("%s at %d steps is left out of the laws: %s", line["arm"], line["steps"], error)


def _laws(folder: Path, points: Sequence[ScalingPoint]) -> str:
    """Write points, laws and their plot into ``folder``, and say what the laws are."""
    folder.mkdir(exist_ok=True)
    write_points(folder / "scaling.jsonl", points)
    try:
        laws = fit_scaling(points, SEED, {"commit": commit(), "date": today(), "command": command_line()})
    except ValueError as error:
        return f"No laws:\n\n{error}"
    write_laws(folder / "laws.json", laws)
    plot_laws(folder / "scaling.png", laws)
    return _law_table(laws)


def _law_table(laws: ScalingLaws) -> str:
    rows = []
    for fit in laws.fits:
        exponents = [f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for e in fit.exponents.values()]
        held_out = [f"{row.relative_error:+.1%}, {'inside' if row.inside else 'outside'}" for row in fit.held_out]
        rows.append([fit.strategy, fit.law.formula, "; ".join(exponents), "; ".join(held_out) or "too few levels"])
    rows += [[strategy, "none", reason, ""] for strategy, reason in laws.refusals.items()]
    return table(["strategy", "law", "exponents", "dearest level foretold"], rows)


def _section(task: Task, lines: Sequence[Line], curves: Mapping[str, Curve], decayed: Sequence[Line]) -> str:
    parts = [f"## {task.upper()}", _points(task, [*lines, *decayed])]
    own = [name for name in curves if name.startswith(EFIN)]
    pairs = [compare(curves[one], curve) for one in own for name, curve in curves.items() if name not in own]
    if pairs:
        parts.insert(1, _in_short([pair for pair in pairs if pair.strategy == EFIN]))
        parts.append(_comparisons(pairs))
    return "\n\n".join(parts)


def _points(task: Task, lines: Sequence[Line]) -> str:
    """A row per run and point, with WER and CER in the main condition and clean."""
    levels = dict.fromkeys([main_level(task), None] if Modality.AUDIO in task.modalities else [None])
    units: tuple[Unit, ...] = ("characters", "words")
    names = {"characters": "CER", "words": "WER"}
    head = [f"{names[u]}, {'clean' if level is None else f'{level:g} dB'}" for level in levels for u in units]
    order = sorted(lines, key=lambda line: (label_of(line), line["decayed"], line["seed"], line["steps"]))
    rows = [
        [
            label_of(line) + (", decayed" if line["decayed"] else ""),
            f"{line['lr_scale']:g}",
            str(line["seed"]),
            str(line["steps"]),
            f"{flops_of(line) / 1e12:.4g}",
            *(_rate(line, level, unit) for level in levels for unit in units),
        ]
        for line in order
    ]
    return table(["strategy", "learning rate x", "seed", "steps of the last stage", "TFLOPs", *head], rows)


def _rate(line: Line, level: float | None, unit: Unit) -> str:
    counts = count_errors(hypotheses_of(line, "test", level))
    interval = bootstrap_interval(counts, unit, seed=SEED)
    return f"{100 * error_rate(counts, unit):.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _in_short(pairs: Sequence[Comparison]) -> str:
    """EFIN with its usual first stage against each other strategy, at the dearest compute that both curves span."""
    rows = []
    for pair in pairs:
        budget = max(pair.reductions, default=math.nan)
        reduction = _percent(*pair.reductions[budget]) if pair.reductions else "no compute in common"
        share = ("at most " if pair.share_is_bound else "") + _percent(*pair.share)
        rows.append([pair.other, f"{budget / 1e12:.4g}", reduction, share])
    head = ["EFIN against", "TFLOPs", "relative CER reduction there", "EFIN's share of its FLOPs for its best CER"]
    return table(head, rows)


def _comparisons(pairs: Sequence[Comparison]) -> str:
    rows = [
        [pair.strategy, pair.other, f"{budget / 1e12:.4g}", _percent(*reduction)]
        for pair in pairs
        for budget, reduction in pair.reductions.items()
    ]
    shares = [
        [pair.strategy, pair.other, ("at most " if pair.share_is_bound else "") + _percent(*pair.share)]
        for pair in pairs
    ]
    return "\n\n".join(
        [
            table(["strategy", "against", "TFLOPs", "relative CER reduction at equal compute"], rows),
            table(["strategy", "against", "share of its FLOPs for its best CER"], shares),
        ]
    )


def _percent(value: float, interval: Interval) -> str:
    low, high = (_share(bound) for bound in (interval.low, interval.high))
    return f"{_share(value)} % [{low}, {high}]" if math.isfinite(value) else f"not reached [{low}, {high}]"


def _share(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else "not reached"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plot_curves(path: Path, lines: Sequence[Line], curves: Mapping[str, Curve], task: Task) -> None:
    """CER against training compute: means over seeds as lines, single runs as dots."""
    figure, axes = new_figure("")
    for nth, (strategy, curve) in enumerate(curves.items()):
        color, marker = CURVE_COLORS[nth % len(CURVE_COLORS)], MARKERS[nth % len(MARKERS)]
        axes.plot(curve.flops, 100 * curve.rates(), color=color, marker=marker, markersize=4, label=strategy)
        own = [line for line in lines if label_of(line) == strategy]
        sums = [clip_errors(line, "test", main_level(task), "characters").sum(axis=0) for line in own]
        rates = [100 * errors / lengths for errors, lengths in sums]
        axes.plot(np.array([flops_of(line) for line in own]), rates, ".", color=color, alpha=0.5, markersize=4)
    axes.set(xscale="log", xlabel="training compute (FLOPs)", ylabel=f"CER of {task.upper()} (%)", ylim=(0, None))
    axes.legend()
    save_figure(path, figure)


if __name__ == "__main__":
    main()
