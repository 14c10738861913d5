"""Points of all strategies -> fitted laws with intervals and a test on the dearest level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from omni_avsr.scaling.fit import Fit, bootstrap, fit_law, weighted_samples
from omni_avsr.scaling.laws import PLAIN, VARIABLES, candidates
from omni_avsr.scaling.points import ScalingPoint
from omni_avsr.scaling.results import Estimate, HeldOut, LawDraws, ScalingLaws, StrategyFit, quantiles
from omni_avsr.scaling.samples import Samples, check_points, compute_levels, variables_of
from omni_avsr.scaling.selection import choose

NUM_DRAWS = 500
SPARE_LEVELS = 2
"""How many levels of compute there must be beyond a law's parameters, for noise to be told from law."""


def fit_scaling(points: Sequence[ScalingPoint], seed: int, origin: Mapping[str, str]) -> ScalingLaws:
    """A law for every strategy whose points allow one.

    Raises:
        ValueError: the points measure different things, or no strategy's points allow a law; says why for each.
    """
    if not points:
        raise ValueError("there are no points to fit a law to")
    measures = sorted({point.measure for point in points})
    if len(measures) > 1:
        raise ValueError(f"the points measure different things: {', '.join(measures)}; fit each by itself")
    fits, refusals = [], {}
    for strategy in sorted({point.strategy for point in points}):
        own = [point for point in points if point.strategy == strategy]
        try:
            fits.append(fit_strategy(own, seed))
        except ValueError as error:
            refusals[strategy] = str(error)
    if not fits:
        raise ValueError("\n".join(f"no law of {strategy}: {reason}" for strategy, reason in refusals.items()))
    return ScalingLaws(measures[0], tuple(points), tuple(fits), refusals, dict(origin))


def fit_strategy(points: Sequence[ScalingPoint], seed: int) -> StrategyFit:
    """The law of one strategy's points, and how well the others foretell those of the dearest level.

    ValueError if the points allow no law.
    """
    fit = fit_points(points, seed)
    level = compute_levels(variables_of(points)[:, 0])
    cheaper = [point for point, n in zip(points, level, strict=True) if n < level.max()]
    dearest = [point for point, n in zip(points, level, strict=True) if n == level.max()]
    try:
        without = fit_points(cheaper, seed)
    except ValueError:
        return fit
    return replace(fit, held_out=_compare(without, dearest, max(point.flops for point in cheaper)))


def fit_points(points: Sequence[ScalingPoint], seed: int) -> StrategyFit:
    """The law of one strategy's points, without that test; ValueError if the points allow none."""
    check_points(points)
    reference = np.exp(np.log(variables_of(points)).mean(axis=0))
    samples = weighted_samples(points, reference)
    laws = candidates(samples.varying, max(samples.num_levels - SPARE_LEVELS, PLAIN.num_parameters))
    fits = {law: fit_law(law, samples) for law in laws}
    choice = choose(list(fits.values()), samples)
    generator = np.random.default_rng(seed)
    rivals = [_drawn(fits[law], samples, generator) for law in choice.rivals]
    chosen = fits[choice.chosen]
    same = [rival for rival in rivals if rival.law.variables == chosen.law.variables]
    with_floor = [rival for rival in same if rival.law.floor]
    variables = chosen.law.variables
    return StrategyFit(
        strategy=points[0].strategy,
        law=chosen.law,
        reference=dict(zip(VARIABLES, reference.tolist(), strict=True)),
        parameters=tuple(chosen.parameters.tolist()),
        amplitudes={v: float(np.exp(chosen.parameters[2 * n])) for n, v in enumerate(variables)},
        exponents={v: _estimate(chosen, same, 2 * n + 1, np.exp) for n, v in enumerate(variables)},
        floor=_estimate(chosen, with_floor, -1, np.asarray) if chosen.law.floor else None,
        scores={law.formula: score for law, score in choice.scores.items()},
        rivals=tuple(rivals),
    )


def _drawn(fit: Fit, samples: Samples, generator: np.random.Generator) -> LawDraws:
    parameters, level_noise, run_noise = bootstrap(fit, samples, NUM_DRAWS, generator)
    rows = tuple(tuple(row) for row in parameters.tolist())
    return LawDraws(fit.law, rows, tuple(level_noise.tolist()), tuple(run_noise.tolist()))


def _estimate(
    chosen: Fit, rivals: Sequence[LawDraws], column: int, transform: Callable[[np.ndarray], np.ndarray]
) -> Estimate:
    """One parameter, with an interval from the lowest to the highest bound of the rivals that share its meaning."""
    draws = [transform(np.array(rival.parameters)[:, column]) for rival in rivals]
    low, high = np.array([np.quantile(values, quantiles()) for values in draws]).T
    value = float(transform(chosen.parameters[column]))
    return Estimate(value, min(value, float(low.min())), max(value, float(high.max())))


def _compare(fit: StrategyFit, points: Sequence[ScalingPoint], dearest: float) -> tuple[HeldOut, ...]:
    """The measured means of runs that repeat each other beside what ``fit``, which did not see them, foretells."""
    values, cell = np.unique(variables_of(points)[:, 1:], axis=0, return_inverse=True)
    log_errors, log_flops = np.log([(point.error, point.flops) for point in points]).T
    flops = [float(np.exp(log_flops[cell == n].mean())) for n in range(len(values))]
    predicted = fit.predict(np.column_stack([flops, values]), "level")
    return tuple(
        HeldOut(flops[n], flops[n] / dearest, float(np.exp(log_errors[cell == n].mean())), predicted[n])
        for n in range(len(values))
    )
