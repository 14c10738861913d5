"""Fits one law to many sets of errors at once: Levenberg and Marquardt's method under Huber's loss."""

from __future__ import annotations

import itertools

import numpy as np

from omni_avsr.scaling.laws import Law

HUBER = 1.345
"""Residuals beyond so many times their scale count linearly: 95 % efficient for normal noise (Huber, 1964)."""
START_EXPONENTS = (0.1, 0.6)
START_FLOORS = (0.0, 0.7)
"""Where fits start: exponents of the variables, and shares of the smallest error."""
EXPONENT_BOUNDS = (1e-3, 10.0)
MAX_STEPS = 200
TOLERANCE = 1e-9
MIN_DAMPING, MAX_DAMPING = 1e-10, 1e8


def starts(law: Law, log_errors: np.ndarray) -> np.ndarray:
    """[starts, parameters]: every mixture of starting exponents and floors, the rest shared out among the terms."""
    rows = []
    for exponents in itertools.product(START_EXPONENTS, repeat=len(law.variables)):
        for share in START_FLOORS if law.floor else (0.0,):
            floor = share * np.exp(log_errors.min())
            amplitude = np.log((np.exp(log_errors.mean()) - floor) / len(law.variables))
            row = [value for exponent in exponents for value in (amplitude, np.log(exponent))]
            rows.append([*row, floor] if law.floor else row)
    return np.array(rows)


def solve(
    law: Law, x: np.ndarray, log_errors: np.ndarray, weights: np.ndarray, scale: np.ndarray | float, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Parameters [sets, parameters] and losses [sets] that each set reaches from its row of ``start``.

    x: [points, VARIABLES]. log_errors: [sets, points]. weights: [sets, points] or [points], in proportion to one over
        the standard deviation of each; 0 leaves a point out. scale: [sets] or one, the standard deviation of weighted
        residuals; infinite for least squares.
    """
    weights = np.broadcast_to(weights, log_errors.shape)
    threshold = HUBER * np.broadcast_to(scale, len(log_errors))[:, None]
    parameters = start.copy()
    residuals, slopes = _residuals(law, parameters, x, log_errors, weights)
    losses = huber_loss(residuals, threshold).sum(axis=1)
    damping = np.full(len(parameters), 1e-3)
    active = np.arange(len(parameters))
    for _ in range(MAX_STEPS):
        step = _step(law, parameters[active], residuals[active], slopes[active], threshold[active], damping[active])
        tried = parameters[active] + step
        new_residuals, new_slopes = _residuals(law, tried, x, log_errors[active], weights[active])
        new_losses = huber_loss(new_residuals, threshold[active]).sum(axis=1)
        gain = losses[active] - new_losses
        better = gain > 0
        done = np.where(better, gain <= TOLERANCE * losses[active], damping[active] > MAX_DAMPING)
        taken = active[better]
        parameters[taken], losses[taken] = tried[better], new_losses[better]
        residuals[taken], slopes[taken] = new_residuals[better], new_slopes[better]
        damping[active] = np.maximum(damping[active] * np.where(better, 1 / 5, 4), MIN_DAMPING)
        active = active[~done]
        if len(active) == 0:
            break
    return parameters, losses


def huber_loss(residuals: np.ndarray, threshold: np.ndarray | float) -> np.ndarray:
    """Half the square up to the threshold, and a straight line beyond it."""
    size = np.abs(residuals)
    inside = np.minimum(size, threshold)
    return inside * (size - inside / 2)


def _residuals(
    law: Law, parameters: np.ndarray, x: np.ndarray, log_errors: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    predicted, slopes = law.log_error_and_slopes(parameters, x)
    return weights * (log_errors - predicted), weights[..., None] * slopes


def _step(
    law: Law,
    parameters: np.ndarray,
    residuals: np.ndarray,
    slopes: np.ndarray,
    threshold: np.ndarray,
    damping: np.ndarray,
) -> np.ndarray:
    """A damped Gauss-Newton step [sets, parameters] that stays within the bounds."""
    trust = np.minimum(1, threshold / np.maximum(np.abs(residuals), np.finfo(np.float64).tiny))
    weighted = slopes * trust[..., None]
    matrix = np.swapaxes(weighted, 1, 2) @ slopes
    target = (weighted * residuals[..., None]).sum(axis=1)
    diagonal = np.einsum("spp->sp", matrix)
    diagonal += damping[:, None] * diagonal + 1e-12
    step = np.linalg.solve(matrix, target[..., None])[..., 0]
    low, high = _bounds(law)
    bounded = np.clip(step, low - parameters, high - parameters)
    held = bounded != step
    if held.any():
        # A parameter that would leave its bounds goes as far as they are; the others' step is the best for that.
        moved = (np.where(held[:, None, :], matrix, 0) @ bounded[..., None])[..., 0]
        target = np.where(held, bounded, target - moved)
        free = np.where(held[:, :, None] | held[:, None, :], 0, matrix)
        matrix = np.where(held[:, :, None], np.eye(law.num_parameters), free)
        step = np.linalg.solve(matrix, target[..., None])[..., 0]
        bounded = np.clip(step, low - parameters, high - parameters)
    return bounded


def _bounds(law: Law) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.full(law.num_parameters, -np.inf), np.full(law.num_parameters, np.inf)
    exponents = slice(1, 2 * len(law.variables), 2)
    low[exponents], high[exponents] = np.log(EXPONENT_BOUNDS)
    if law.floor:
        low[-1] = 0.0
    return low, high
