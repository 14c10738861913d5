"""The points of one strategy as arrays: levels of compute, repeated runs, logarithms and weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from omni_avsr.scaling.laws import VARIABLES, Variable
from omni_avsr.scaling.points import ScalingPoint

LEVEL_WIDTH = 1.1
"""Runs whose compute lies within this factor are of one level: seeds differ a little in what they cost."""
MIN_LEVELS = 4
MIN_SPAN = 4.0
MIN_VALUES = 3
"""Distinct values that a size or the data must have for a law in it: amplitude, exponent and floor are three."""
MIN_SLOPE_T = 2.0
"""How many standard errors below zero the slope of log error over log compute must be."""


@dataclass(frozen=True)
class Samples:
    """log_errors, weights: [points]; x: [points, VARIABLES], logarithms over ``reference`` [VARIABLES].

    level: [points], which level of compute, cheap ones first. cell: [points], which runs repeat each other: the same
    level, sizes and data. The weights are in proportion to one over the standard deviation, about 1.
    """

    x: np.ndarray
    log_errors: np.ndarray
    weights: np.ndarray
    level: np.ndarray
    cell: np.ndarray

    @cached_property
    def num_levels(self) -> int:
        return int(self.level.max()) + 1

    @cached_property
    def num_cells(self) -> int:
        return int(self.cell.max()) + 1

    @property
    def varying(self) -> Collection[Variable]:
        """The variables with values enough for a law in them."""
        columns = zip(VARIABLES, self.x.T, strict=True)
        return {variable for variable, column in columns if len(np.unique(column.round(6))) >= MIN_VALUES}

    def cell_means(self, values: np.ndarray) -> np.ndarray:
        """[..., points] -> [..., cells]."""
        membership = self.cell[:, None] == np.arange(self.num_cells)
        return values @ (membership / membership.sum(axis=0))

    def select(self, chosen: np.ndarray) -> Samples:
        """Some of the points, with the levels and cells that are left counted anew."""
        level, cell = (np.unique(values[chosen], return_inverse=True)[1] for values in (self.level, self.cell))
        return Samples(self.x[chosen], self.log_errors[chosen], self.weights[chosen], level, cell)


def variables_of(points: Sequence[ScalingPoint]) -> np.ndarray:
    """[points, VARIABLES] in their own units."""
    return np.array(
        [(point.flops, point.encoder_parameters, point.llm_parameters, point.data_hours) for point in points],
        dtype=np.float64,
    )


def make_samples(points: Sequence[ScalingPoint], reference: np.ndarray, variance: np.ndarray) -> Samples:
    """Arrays of the points of one strategy. variance: [points], of log errors, up to a common factor."""
    values = variables_of(points)
    level = compute_levels(values[:, 0])
    _, cell = np.unique(np.column_stack([level, values[:, 1:]]), axis=0, return_inverse=True)
    log_errors = np.log([point.error for point in points])
    weights = np.sqrt(variance.mean() / variance)
    return Samples(np.log(values / reference), log_errors, weights, level, cell.reshape(-1))


def sampling_variance(points: Sequence[ScalingPoint]) -> np.ndarray:
    """[points]: variance of log error because the test set is finite, as if errors came one by one."""
    return np.array([1 / (point.error * point.num_units) for point in points])


def compute_levels(flops: np.ndarray) -> np.ndarray:
    """[points] int: the levels of compute, from cheap to dear."""
    levels, current, begin = np.empty(len(flops), dtype=np.int64), -1, 0.0
    for index in np.argsort(flops, kind="stable"):
        if flops[index] > LEVEL_WIDTH * begin:
            current, begin = current + 1, flops[index]
        levels[index] = current
    return levels


def check_points(points: Sequence[ScalingPoint]) -> None:
    """ValueError if no law can be told from the points of a strategy; the message says what would help."""
    flops = variables_of(points)[:, 0]
    level = compute_levels(flops)
    num_levels, span = int(level.max()) + 1, flops.max() / flops.min()
    if num_levels < MIN_LEVELS:
        raise ValueError(f"{num_levels} levels of compute; a law takes {MIN_LEVELS} or more: run at further levels")
    if span < MIN_SPAN:
        raise ValueError(
            f"compute spans a factor of {span:.2f}; a law takes {MIN_SPAN:g} or more: run cheaper or dearer ones"
        )
    log_flops, log_errors = np.log(flops), np.log([point.error for point in points])
    x, y = (np.array([values[level == n].mean() for n in range(num_levels)]) for values in (log_flops, log_errors))
    x -= x.mean()
    slope = (x * y).sum() / (x**2).sum()
    misfit = y - y.mean() - slope * x
    deviation = np.sqrt((misfit**2).sum() / (num_levels - 2) / (x**2).sum())
    if slope + MIN_SLOPE_T * deviation >= 0:
        raise ValueError(
            f"errors do not fall with compute beyond their noise over {num_levels} levels: "
            "repeat them with more seeds, or over a wider range of compute"
        )
