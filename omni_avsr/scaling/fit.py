"""Fits a law to points robustly, and draws what it might have been by a bootstrap of residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from omni_avsr.scaling.laws import FLOORED, PLAIN, Law
from omni_avsr.scaling.points import ScalingPoint
from omni_avsr.scaling.samples import Samples, make_samples, sampling_variance
from omni_avsr.scaling.solver import solve, starts

NUM_RESCALINGS = 3
MIN_SCALE = 1e-6
"""Of log errors: points that lie on a law exactly still have residuals of rounding."""


@dataclass(frozen=True)
class Fit:
    """parameters: [parameters] of ``law``. scale: standard deviation of weighted residuals, which outliers leave be."""

    law: Law
    parameters: np.ndarray
    scale: float


class Draws(NamedTuple):
    """Laws that resampled points gave, and noise of new points, in logarithms of errors.

    parameters: [draws, parameters]. level_noise: [draws], how far the mean of a level's runs strays from the law.
    run_noise: [draws], how far a run strays from the mean of its level.
    """

    parameters: np.ndarray
    level_noise: np.ndarray
    run_noise: np.ndarray


def weighted_samples(points: Sequence[ScalingPoint], reference: np.ndarray) -> Samples:
    """Points with weights by their variance: that of the test set, and what a first fit leaves over beside it."""
    equal = make_samples(points, reference, np.ones(len(points)))
    law = FLOORED if equal.num_levels > FLOORED.num_parameters else PLAIN
    of_tests = sampling_variance(points)
    of_runs = max(fit_law(law, equal).scale ** 2 - of_tests.mean(), 0.0)
    return make_samples(points, reference, of_runs + of_tests)


def fit_law(law: Law, samples: Samples) -> Fit:
    """Least squares from many starts, then Huber's loss at the scale of the residuals (1.4826 times their median)."""
    start = starts(law, samples.log_errors)
    log_errors = np.broadcast_to(samples.log_errors, (len(start), len(samples.log_errors)))
    reached, losses = solve(law, samples.x, log_errors, samples.weights, np.inf, start)
    parameters = reached[[losses.argmin()]]
    num_points = len(samples.log_errors)
    freedom = num_points / max(num_points - law.num_parameters, 1)
    for _ in range(NUM_RESCALINGS):
        residuals = samples.weights * (samples.log_errors - law.log_error(parameters, samples.x))
        scale = max(1.4826 * float(np.median(np.abs(residuals))) * np.sqrt(freedom), MIN_SCALE)
        parameters, _ = solve(law, samples.x, samples.log_errors[None], samples.weights, scale, parameters)
    return Fit(law, parameters[0], scale)


def bootstrap(fit: Fit, samples: Samples, num_draws: int, generator: np.random.Generator) -> Draws:
    """Laws fitted to the law's errors plus residuals drawn with replacement.

    Residuals are drawn in two parts: means of cells, because runs of one level share more than the law (a learning
    rate, a part of the data), and what runs differ by from these. The means are made larger for the parameters that
    were fitted to them, and by the spread that a standard deviation of few cells itself has, as in Student's t: plain
    resampling is too sure of itself with 6 to 10 levels.
    """
    num_cells, num_points = samples.num_cells, len(samples.log_errors)
    predicted = fit.law.log_error(fit.parameters, samples.x)
    residuals = samples.weights * (samples.log_errors - predicted)
    means = samples.cell_means(residuals)
    within = residuals - means[samples.cell]
    sizes = np.bincount(samples.cell)[samples.cell]
    repeated = sizes > 1
    freedom = num_cells - fit.law.num_parameters
    spread = np.sqrt(freedom / generator.chisquare(freedom, num_draws))
    means = (means - means.mean()) * np.sqrt(num_cells / freedom)
    # A residual from the mean of n is too small by sqrt(1 - 1/n); those of runs without repeats are no residuals.
    pool = (within * np.sqrt(sizes / np.maximum(sizes - 1, 1)))[repeated] if repeated.any() else np.zeros(1)
    levels = generator.choice(means, (num_draws, num_cells)) * spread[:, None]
    runs = generator.choice(pool, (num_draws, num_points))
    runs = np.where(repeated, runs - samples.cell_means(runs)[:, samples.cell], 0.0)
    log_errors = predicted + (levels[:, samples.cell] + runs) / samples.weights
    start = np.broadcast_to(fit.parameters, (num_draws, len(fit.parameters)))
    parameters, _ = solve(fit.law, samples.x, log_errors, samples.weights, fit.scale * spread, start)
    level_noise = generator.choice(means, num_draws) * spread
    run_noise = generator.choice(within[repeated] if repeated.any() else pool, num_draws)
    return Draws(parameters, level_noise, run_noise)
