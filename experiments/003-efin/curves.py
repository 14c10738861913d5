"""Lines of results -> curves of error against training compute, and how two curves compare."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arms import LR_SCALES, NUM_COMPARED, NUM_TRIED, POINTS, SEEDS, SNR_DB

from omni_avsr.bootstrap import Interval
from omni_avsr.error_counts import Unit, count_errors, error_rate, total
from omni_avsr.scaling.points import ScalingPoint
from omni_avsr.types import Hypothesis, Task

RESULTS = Path(__file__).resolve().parent / "results"
NUM_DRAWS = 2000
DRAW_SEED = 7
LEVEL = 0.95
MIN_ERRORS = 0.5
"""What no errors at all count as, where logarithms are taken."""

Line = Mapping[str, Any]


def read_lines(path: Path) -> list[Line]:
    """The points of one file, or of all in a folder."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
    return [json.loads(text) for file in files for text in file.read_text().split("\n") if text]


def main_level(task: Task) -> float | None:
    """The noise in which a task is judged: VSR hears none."""
    return None if task is Task.VSR else SNR_DB


def clip_errors(line: Line, split: str, level: float | None, unit: Unit) -> np.ndarray:
    """[clips, 2]: errors and reference lengths, clips in the order of their ids."""
    counts = count_errors(hypotheses_of(line, split, level))
    counts.sort(key=lambda clip: clip.id)
    return np.array([(clip.of(unit).errors, clip.of(unit).length) for clip in counts], dtype=np.float64)


def hypotheses_of(line: Line, split: str, level: float | None) -> list[Hypothesis]:
    [row] = [row for row in line["hypotheses"] if (row["split"], row["snr_db"]) == (split, level)]
    task = Task(line["task"])
    texts = zip(row["ids"], row["references"], row["texts"], strict=True)
    return [Hypothesis(id_, task, "", reference, text, split, None, level) for id_, reference, text in texts]


def choose_scales(lines: Iterable[Line]) -> dict[tuple[str, Task], float]:
    """The learning rate of each strategy and task: that of the lowest CER on validation, over the last points of a try.

    The mean is of logarithms. A strategy is left out until all its
    tries have all their points.
    """
    logs: dict[tuple[str, Task], dict[float, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        if line["seed"] == SEEDS[0] and line["usual_split"] and not line["decayed"]:
            task = Task(line["task"])
            errors, lengths = clip_errors(line, "validation", main_level(task), "characters").sum(axis=0)
            of_try = logs[line["strategy"], task][line["lr_scale"]]
            of_try[line["steps"]] = float(np.log(max(errors, MIN_ERRORS) / lengths))
    chosen = {}
    for task, of_task in POINTS.items():
        for strategy, points in of_task.items():
            found, tried = logs[strategy, task], points[: NUM_TRIED[task]]
            if all(found[scale].keys() >= set(tried) for scale in LR_SCALES):
                last = tried[-NUM_COMPARED:]
                mean = {scale: sum(found[scale][steps] for steps in last) for scale in LR_SCALES}
                chosen[strategy, task] = min(mean, key=lambda scale: mean[scale])
    return chosen


@dataclass(frozen=True)
class Draws:
    """Bootstrap samples: how often each clip is drawn [draws, clips], and each seed of a strategy [draws, seeds]."""

    clips: np.ndarray
    seeds: np.ndarray


@dataclass(frozen=True)
class Curve:
    """One strategy on one task: flops [points], rising; errors, lengths [points, seeds, clips], NaN where none ran."""

    strategy: str
    flops: np.ndarray
    errors: np.ndarray
    lengths: np.ndarray

    def rates(self, draws: Draws | None = None) -> np.ndarray:
        """[points]: error rates of all clips and seeds, or [draws, points].

        Seeds weigh the same. A run's points are drawn together; a point that lacks all seeds of a draw keeps its own.
        """
        ran = ~np.isnan(self.errors[..., 0])
        one = np.ones(1)
        clips, seeds = (one, one) if draws is None else (draws.clips, draws.seeds)
        clips, seeds = np.broadcast_to(clips, (*clips.shape[:-1], self.errors.shape[2])), np.atleast_2d(seeds)
        weights = seeds[:, None, :] * ran  # [draws, points, seeds]
        weights = np.where(weights.any(axis=2, keepdims=True), weights, ran)
        errors, lengths = (
            np.einsum("dps,psc,dc->dp", weights, np.nan_to_num(values), np.atleast_2d(clips))
            for values in (self.errors, self.lengths)
        )
        rates = np.maximum(errors, MIN_ERRORS) / lengths
        return rates[0] if draws is None else rates


def chosen_lines(
    lines: Iterable[Line], chosen: Mapping[tuple[str, Task], float], task: Task, decayed: bool = False
) -> list[Line]:
    """The points of a task at the chosen learning rates."""
    return [
        line
        for line in lines
        if line["task"] == task
        and line["decayed"] == decayed
        and chosen.get((line["strategy"], task)) == line["lr_scale"]
    ]


def label_of(line: Line) -> str:
    """The strategy; with a first stage of another length, an own name for it."""
    name: str = line["strategy"]
    return name if line["usual_split"] else f"{name}, {line['encoder_steps']} encoder steps"


def make_curves(lines: Sequence[Line], split: str, level: float | None, unit: Unit) -> dict[str, Curve]:
    """A curve for each label in ``lines``, which are of one task."""
    groups: dict[str, dict[tuple[int, int], Line]] = defaultdict(dict)
    for line in lines:
        groups[label_of(line)][line["steps"], line["seed"]] = line
    curves = {}
    for strategy, cells in groups.items():
        steps, seeds = (sorted({key[axis] for key in cells}) for axis in (0, 1))
        found = {key: clip_errors(line, split, level, unit) for key, line in cells.items()}
        nothing = np.full_like(next(iter(found.values())), np.nan)
        table = np.array([[found.get((step, seed), nothing) for seed in seeds] for step in steps])
        flops = [np.mean([flops_of(line) for key, line in cells.items() if key[0] == step]) for step in steps]
        curves[strategy] = Curve(strategy, np.array(flops), table[..., 0], table[..., 1])
    return curves


def flops_of(line: Line) -> float:
    return sum(line["flops_by_stage"].values())


def at_compute(flops: float, curve_flops: np.ndarray, rates: np.ndarray) -> float:
    """The error rate at ``flops``, which lie within the curve: straight lines between points, in logarithms."""
    return float(np.exp(np.interp(np.log(flops), np.log(curve_flops), np.log(rates))))


def compute_for(rate: float, curve_flops: np.ndarray, rates: np.ndarray) -> float:
    """The least compute at which the curve is down at ``rate``: the first point's if it is there at once, inf if never.

    What a curve once had it keeps: one would stop there.
    """
    best = np.minimum.accumulate(rates)
    if best[0] <= rate:
        return float(curve_flops[0])
    if best[-1] > rate:
        return float("inf")
    after = int(np.argmax(best <= rate))
    logs = np.log(best[[after, after - 1]])
    return float(np.exp(np.interp(np.log(rate), logs, np.log(curve_flops[[after, after - 1]]))))


@dataclass(frozen=True)
class Comparison:
    """One strategy against another on the same test clips, with intervals over clips and over each one's seeds.

    reductions: by FLOPs, at the points of either that both curves span: 1 - error / error.
    share: FLOPs for the other's best error over what the other needs for it; inf where it is never reached, an upper
    bound where ``share_is_bound``: it is reached at the first point already.
    """

    strategy: str
    other: str
    reductions: Mapping[float, tuple[float, Interval]]
    share: tuple[float, Interval]
    share_is_bound: bool


def compare(one: Curve, other: Curve) -> Comparison:
    generator = np.random.default_rng(DRAW_SEED)
    clips = _drawn(one.errors.shape[2], generator)
    draws = [Draws(clips, _drawn(curve.errors.shape[1], generator)) for curve in (one, other)]
    pairs = list(zip(one.rates(draws[0]), other.rates(draws[1]), strict=True))
    own, others = one.rates(), other.rates()
    reductions = {}
    least, most = max(one.flops[0], other.flops[0]), min(one.flops[-1], other.flops[-1])
    for budget in sorted(flops for flops in {*one.flops.tolist(), *other.flops.tolist()} if least <= flops <= most):
        samples = [_reduction(budget, one, a, other, b) for a, b in pairs]
        reductions[budget] = (_reduction(budget, one, own, other, others), _interval(samples))
    samples = [_share(one, a, other, b) for a, b in pairs]
    bound = bool(own[0] <= others.min())
    return Comparison(
        one.strategy, other.strategy, reductions, (_share(one, own, other, others), _interval(samples)), bound
    )


def _drawn(number: int, generator: np.random.Generator) -> np.ndarray:
    """[draws, number]: how often each of ``number`` is drawn."""
    return generator.multinomial(number, np.full(number, 1 / number), size=NUM_DRAWS).astype(np.float64)


def _reduction(budget: float, one: Curve, own: np.ndarray, other: Curve, others: np.ndarray) -> float:
    return 1 - at_compute(budget, one.flops, own) / at_compute(budget, other.flops, others)


def _share(one: Curve, own: np.ndarray, other: Curve, others: np.ndarray) -> float:
    best = float(others.min())
    return compute_for(best, one.flops, own) / compute_for(best, other.flops, others)


def _interval(samples: Sequence[float]) -> Interval:
    # Between a share and infinity there is nothing to interpolate.
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return Interval(float(low), float(high), LEVEL)


def scaling_point(line: Line) -> ScalingPoint:
    """CER on the test clips, as ``omni-avsr fit-scaling`` reads it. ValueError: there are no errors at all."""
    task = Task(line["task"])
    level = main_level(task)
    counts = count_errors(hypotheses_of(line, "test", level))
    return ScalingPoint(
        strategy=label_of(line),
        config=f"{task}, learning rates times {line['lr_scale']:g}",
        measure=f"CER, {task.upper()}{'' if level is None else f', babble at {level:g} dB'}",
        flops=flops_of(line),
        flops_by_stage=dict(line["flops_by_stage"]),
        hours_by_stage=dict(line["hours_by_stage"]),
        error=error_rate(counts, "characters"),
        num_units=total(counts, "characters").length,
        encoder_parameters=line["encoder_parameters"],
        llm_parameters=line["llm_parameters"],
        data_hours=line["data_hours"],
        seed=line["seed"],
        commit=line["commit"],
        date=line["date"],
    )
