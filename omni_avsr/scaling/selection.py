"""Chooses a law by how well it foretells a level of compute from the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omni_avsr.scaling.fit import Fit
from omni_avsr.scaling.laws import Law
from omni_avsr.scaling.samples import Samples
from omni_avsr.scaling.solver import HUBER, huber_loss, solve, starts

MARGIN = 0.5
"""A law with more parameters must be better by this many standard errors of the mean difference over levels.

A whole standard error, the usual rule, overlooks one floor in four that clearly is there (300 times the compute, 8
levels, noise of 3 %); with half of one, a floor is seen where there is none in 11 to 17 of 100 sets.
"""
RIVAL_MARGIN = 1.0
"""The same for a simpler law to be out of the question altogether, so that intervals need not allow for it."""


@dataclass(frozen=True)
class Choice:
    """scores: mean held-out loss by law. rivals: the chosen law, first, and those that are not told apart from it."""

    chosen: Law
    rivals: tuple[Law, ...]
    scores: dict[Law, float]


def choose(fits: Sequence[Fit], samples: Samples) -> Choice:
    """The law with fewest parameters among those that are not worse than the best beyond the noise between levels.

    A law without a floor keeps its sibling with one as a rival: that points show no floor does not say there is none.
    """
    scale = min(fit.scale for fit in fits)
    losses = {fit.law: held_out_losses(fit, samples, scale) for fit in fits}
    scores = {law: float(values.mean()) for law, values in losses.items()}
    best = min(scores, key=lambda law: scores[law])
    close = [law for law in losses if _not_worse(losses[law], losses[best], MARGIN)]
    chosen = min(close, key=lambda law: (law.num_parameters, scores[law]))
    siblings = [law for law in losses if law.variables == chosen.variables and law.floor and not chosen.floor]
    simpler = [
        law
        for law in losses
        if law.num_parameters < chosen.num_parameters and _not_worse(losses[law], losses[best], RIVAL_MARGIN)
    ]
    rivals = dict.fromkeys([chosen, *siblings, *close, *simpler])
    return Choice(chosen, tuple(rivals), scores)


def held_out_losses(fit: Fit, samples: Samples, scale: float) -> np.ndarray:
    """[levels]: mean Huber loss of a level's runs, in units of ``scale``, under the law fitted to all other levels."""
    folds = np.arange(samples.num_levels)
    weights = np.where(samples.level == folds[:, None], 0.0, samples.weights)
    start = np.concatenate([fit.parameters[None], starts(fit.law, samples.log_errors)])
    log_errors = np.broadcast_to(samples.log_errors, (len(folds) * len(start), len(samples.log_errors)))
    reached, losses = solve(
        fit.law,
        samples.x,
        log_errors,
        np.repeat(weights, len(start), axis=0),
        fit.scale,
        np.tile(start, (len(folds), 1)),
    )
    best = losses.reshape(len(folds), len(start)).argmin(axis=1)
    parameters = reached.reshape(len(folds), len(start), -1)[folds, best]
    residuals = samples.weights * (samples.log_errors - fit.law.log_error(parameters, samples.x)) / scale
    held_out = samples.level == folds[:, None]
    return np.array([huber_loss(row[chosen], HUBER).mean() for row, chosen in zip(residuals, held_out, strict=True)])


def _not_worse(losses: np.ndarray, best: np.ndarray, margin: float) -> bool:
    difference = losses - best
    return bool(difference.mean() <= margin * difference.std(ddof=1) / np.sqrt(len(difference)))
