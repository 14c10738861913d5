"""What to train with a budget: the strategy, sizes and stages that fitted laws foretell the lowest error for."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from pydantic.dataclasses import dataclass

from omni_avsr.config import STRICT
from omni_avsr.scaling.laws import FLOORED
from omni_avsr.scaling.points import ScalingPoint
from omni_avsr.scaling.results import LEVEL, Estimate, ScalingLaws, StrategyFit
from omni_avsr.scaling.samples import compute_levels, variables_of

BEYOND = 3.0
"""A plan warns where it leaves what the points had by more than this factor: compute, data, epochs."""
BUDGET = re.compile(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(flops?|gpu-?hours?)?\s*", re.IGNORECASE)


@dataclass(frozen=True, config=STRICT)
class StagePlan:
    """A stage's share of the budget. ``epochs``: passes over the data that its share pays for, 0 without speech."""

    stage: str
    share: float
    flops: float
    epochs: float


@dataclass(frozen=True, config=STRICT)
class Option:
    """What the budget buys with one strategy. ``predicted``: the error of one new run, with its interval."""

    strategy: str
    formula: str
    predicted: Estimate
    encoder_parameters: int
    llm_parameters: int
    stages: tuple[StagePlan, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, config=STRICT)
class Plan:
    """options: best first. refusals: strategies that could not be compared, and why."""

    flops: float
    data_hours: float
    measure: str
    options: tuple[Option, ...]
    assumptions: tuple[str, ...]
    refusals: dict[str, str]


def budget_in_flops(text: str, device_flops: float | None, utilisation: float) -> tuple[float, list[str]]:
    """A budget such as ``3e18``, ``3e18FLOPs`` or ``40GPU-hours`` in FLOPs, and what was assumed for that.

    ValueError for anything else, or for GPU-hours without the device's peak in FLOP/s.
    """
    match = BUDGET.fullmatch(text)
    try:
        amount = float(match[1]) if match else 0.0
    except ValueError:
        amount = 0.0
    if match is None or not 0 < amount < float("inf"):
        raise ValueError(f"--budget {text!r}: give FLOPs (3e18) or hours of one device (40GPU-hours), more than 0")
    if not (match[2] or "").lower().startswith("gpu"):
        return amount, []
    if device_flops is None:
        raise ValueError("a budget in GPU-hours takes the device's peak too: --device-flops FLOP/s")
    if not (0 < device_flops < float("inf") and 0 < utilisation <= 1):
        raise ValueError(f"device FLOP/s must be above 0 and utilisation in (0, 1], got {device_flops}, {utilisation}")
    flops = amount * 3600 * device_flops * utilisation
    return flops, [f"{amount:g} GPU-hours at {utilisation:.0%} of {device_flops:.3g} FLOP/s are {flops:.3g} FLOPs"]


def make_plan(laws: ScalingLaws, flops: float, data_hours: float, assumptions: Sequence[str] = ()) -> Plan:
    """Options for ``flops`` of training on ``data_hours`` of distinct speech, the lowest predicted error first."""
    if not (0 < flops < np.inf and 0 < data_hours < np.inf):
        raise ValueError(f"budget and hours of data must be above 0, got {flops} FLOPs and {data_hours} hours")
    options = [_option(fit, laws.points_of(fit.strategy), flops, data_hours) for fit in laws.fits]
    options.sort(key=lambda option: option.predicted.value)
    stated = [
        *assumptions,
        f"errors are {laws.measure}; intervals hold {LEVEL:.0%} of new runs if the law holds",
        "sizes are those that were run; the budget is split over stages as it was at the nearest compute",
        *_overlap(options),
    ]
    return Plan(flops, data_hours, laws.measure, tuple(options), tuple(stated), dict(laws.refusals))


def _option(fit: StrategyFit, points: Sequence[ScalingPoint], flops: float, data_hours: float) -> Option:
    """The best sizes of a strategy: those that need no warning first; of equals, those run at the nearest compute."""
    general = _warnings(fit, points, flops, data_hours)
    found = []
    for sizes in sorted({(point.encoder_parameters, point.llm_parameters) for point in points}):
        own = [point for point in points if (point.encoder_parameters, point.llm_parameters) == sizes]
        stages = _stages(own, flops, data_hours)
        warnings = _epoch_warnings(own, stages)
        [predicted] = fit.predict(np.array([[flops, *sizes, data_hours]]), "run")
        away = min(abs(np.log(point.flops / flops)) for point in own)
        order = (bool(warnings), predicted.value, away, min(point.error for point in own))
        found.append((order, Option(fit.strategy, fit.law.formula, predicted, *sizes, stages, (*general, *warnings))))
    return min(found, key=lambda pair: pair[0])[1]


def _stages(points: Sequence[ScalingPoint], flops: float, data_hours: float) -> tuple[StagePlan, ...]:
    """Shares of the budget between those of the neighbouring levels; at the ends, those of the last level."""
    names = list(dict.fromkeys(name for point in points for name in point.flops_by_stage))
    spent = np.array([[point.flops_by_stage.get(name, 0.0) for name in names] for point in points])
    hours = np.array([[point.hours_by_stage.get(name, 0.0) for name in names] for point in points])
    level = compute_levels(variables_of(points)[:, 0])
    by_level = np.array([spent[level == n].sum(axis=0) for n in range(level.max() + 1)])
    place = np.log([spent[level == n].sum(axis=1).mean() for n in range(level.max() + 1)])
    shares = by_level / by_level.sum(axis=1, keepdims=True)
    share = np.array([np.interp(np.log(flops), place, column) for column in shares.T])
    # What an hour of speech costs in a stage depends on the sizes, which these points share.
    total = spent.sum(axis=0)
    hours_per_flop = np.divide(hours.sum(axis=0), total, out=np.zeros_like(total), where=total > 0)
    epochs = share * flops * hours_per_flop / data_hours
    rows = zip(names, share.tolist(), (share * flops).tolist(), epochs.tolist(), strict=True)
    return tuple(StagePlan(*row) for row in rows)


def _warnings(fit: StrategyFit, points: Sequence[ScalingPoint], flops: float, data_hours: float) -> list[str]:
    warnings = []
    for name, wanted, had in (
        ("compute", flops, [point.flops for point in points]),
        ("data", data_hours, [point.data_hours for point in points]),
    ):
        factor = max(wanted / max(had), min(had) / wanted)
        if factor > BEYOND:
            warnings.append(f"{name} lies a factor of {factor:.3g} beyond the points (more than {BEYOND:g})")
    hours = [point.data_hours for point in points]
    depends = any("data_hours" in rival.law.variables for rival in fit.rivals)
    if not depends and not 0.9 * min(hours) <= data_hours <= 1.1 * max(hours):
        warnings.append(
            f"the law has no term for data; its points had {min(hours):g} to {max(hours):g} hours, not {data_hours:g}"
        )
    if not fit.law.floor and FLOORED.formula not in fit.scores:
        warnings.append("too few levels of compute for a law with a floor: the error may level off before this")
    return warnings


def _epoch_warnings(points: Sequence[ScalingPoint], stages: Sequence[StagePlan]) -> list[str]:
    warnings = []
    for stage in stages:
        hours = [(point.hours_by_stage.get(stage.stage, 0.0), point.data_hours) for point in points]
        had = [seen / distinct for seen, distinct in hours if seen > 0]
        if had and stage.epochs > 0 and not min(had) / BEYOND <= stage.epochs <= max(had) * BEYOND:
            warnings.append(
                f"{stage.stage}: {stage.epochs:.3g} epochs, the points had {min(had):.3g} to {max(had):.3g} "
                f"(more than a factor of {BEYOND:g} beyond)"
            )
    return warnings


def _overlap(options: Sequence[Option]) -> list[str]:
    """Names the strategies whose intervals reach below the best one's upper bound."""
    best, *others = options
    close = [option.strategy for option in others if option.predicted.low <= best.predicted.high]
    return (
        [f"the intervals of {best.strategy} and {', '.join(close)} overlap: the points may not tell"] if close else []
    )
