"""Laws, their slopes, fits of them and the bootstrap."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from helpers_scaling import CHEAPEST, power_law, simulate

from omni_avsr.scaling.fit import Fit, bootstrap, fit_law, weighted_samples
from omni_avsr.scaling.laws import FLOORED, PLAIN, Law, candidates
from omni_avsr.scaling.samples import Samples, variables_of
from omni_avsr.scaling.solver import huber_loss, solve

JOINT = Law(("flops", "data_hours"), floor=True)
REFERENCE = np.array([CHEAPEST, 1e7, 1.35e8, 10.0])


def samples_of(points: list) -> Samples:
    return weighted_samples(points, REFERENCE)


@pytest.mark.parametrize("law", [PLAIN, FLOORED, JOINT])
def test_slopes_are_those_of_finite_differences(law: Law) -> None:
    generator = np.random.default_rng(3)
    parameters = np.abs(generator.standard_normal((2, law.num_parameters)))
    x = generator.standard_normal((5, 4))
    value, slopes = law.log_error_and_slopes(parameters, x)
    assert np.allclose(value, law.log_error(parameters, x))
    for column in range(law.num_parameters):
        step = np.zeros(law.num_parameters)
        step[column] = 1e-6
        difference = law.log_error(parameters + step, x) - law.log_error(parameters - step, x)
        assert np.allclose(slopes[..., column], difference / 2e-6, atol=1e-8)


def test_joint_laws_are_of_what_varies_and_no_larger_than_allowed() -> None:
    assert candidates((), 9) == [PLAIN, FLOORED]
    assert candidates((), 2) == [PLAIN]
    of_data = candidates(("data_hours",), 5)
    assert of_data == [PLAIN, FLOORED, Law(("data_hours",), floor=True), JOINT]
    everything = candidates(("data_hours", "encoder_parameters", "llm_parameters"), 9)
    assert len(set(everything)) == 2 + 2 * 7
    assert [law.num_parameters for law in everything] == sorted(law.num_parameters for law in everything)
    assert JOINT.formula == "E + a C^-b + c D^-d"


@pytest.mark.parametrize(("a", "b", "floor"), [(0.5, 0.3, 0.05), (0.9, 0.1, 0.0), (0.4, 1.5, 0.1), (0.2, 0.7, 0.01)])
def test_points_on_a_law_give_that_law(a: float, b: float, floor: float) -> None:
    samples = samples_of(simulate(power_law(a, b, floor), noise=0.0))
    fit = fit_law(FLOORED, samples)
    assert np.exp(fit.parameters[:2]) == pytest.approx([a, b], rel=1e-3)
    assert fit.parameters[2] == pytest.approx(floor, abs=1e-4)


def test_a_fit_depends_neither_on_units_nor_on_the_order_of_points() -> None:
    points = simulate(power_law(0.5, 0.3, 0.05))
    fits = [
        fit_law(FLOORED, weighted_samples(order, reference)).parameters
        for order, reference in itertools.product(
            (points, points[::-1]), (REFERENCE, variables_of(points).mean(axis=0))
        )
    ]
    for parameters in fits[1:]:
        assert parameters[1:] == pytest.approx(fits[0][1:], rel=1e-3)


def test_two_broken_runs_hardly_move_a_fit() -> None:
    points = simulate(power_law(0.5, 0.3))
    broken = [replace(run, error=3 * run.error) if n in (20, 22) else run for n, run in enumerate(points)]
    clean, robust = (np.exp(fit_law(PLAIN, samples_of(some)).parameters[1]) for some in (points, broken))
    samples = samples_of(broken)
    start = fit_law(PLAIN, samples).parameters[None]
    squares, _ = solve(PLAIN, samples.x, samples.log_errors[None], samples.weights, np.inf, start)
    assert abs(robust / clean - 1) < 0.02
    assert abs(np.exp(squares[0, 1]) / clean - 1) > 3 * abs(robust / clean - 1)


def test_sets_fitted_together_are_fitted_as_each_alone() -> None:
    generator = np.random.default_rng(5)
    sets = [samples_of(simulate(power_law(0.5, 0.3, 0.05), generator=generator)) for _ in range(4)]
    weights = np.stack([np.where(samples.level == n, 0.0, samples.weights) for n, samples in enumerate(sets)])
    log_errors = np.stack([samples.log_errors for samples in sets])
    start = np.tile([np.log(0.5), np.log(0.3), 0.05], (4, 1))
    scale = np.array([0.03, 0.02, np.inf, 0.03])
    together, losses = solve(FLOORED, sets[0].x, log_errors, weights, scale, start)
    for n in range(4):
        alone, loss = solve(FLOORED, sets[0].x, log_errors[[n]], weights[[n]], scale[[n]], start[[n]])
        assert together[n] == pytest.approx(alone[0], rel=1e-9)
        assert losses[n] == pytest.approx(loss[0], rel=1e-9)


def test_a_floor_that_noise_would_make_negative_is_none() -> None:
    def bent(flops: float) -> float:
        return 0.5 * np.exp(-0.3 * np.log(flops / CHEAPEST) - 0.02 * np.log(flops / CHEAPEST) ** 2)

    fit = fit_law(FLOORED, samples_of(simulate(bent, noise=0.0)))
    assert fit.parameters[2] == 0.0


def test_points_on_few_words_weigh_less_and_those_of_dear_runs_with_few_errors_least() -> None:
    law = power_law(0.5, 0.5)
    many, few = (samples_of(simulate(law, num_units=units)) for units in (10_000_000, 500))
    assert many.weights == pytest.approx(np.ones(24), rel=0.05)
    assert few.weights[-1] < 0.7 * few.weights[0]


def test_huber_loss_is_a_parabola_that_goes_straight_on() -> None:
    assert huber_loss(np.array([-1.0, 2.0, 4.0]), 2.0).tolist() == [0.5, 2.0, 6.0]
    assert huber_loss(np.array([3.0]), np.inf).tolist() == [4.5]


def test_draws_scatter_as_fits_to_new_runs_do() -> None:
    """The bootstrap's spread of the exponent against that over simulated sets."""
    generator = np.random.default_rng(11)
    sets = [samples_of(simulate(power_law(0.5, 0.3), generator=generator)) for _ in range(60)]
    fits = [fit_law(PLAIN, samples) for samples in sets]
    spread = np.std([np.exp(fit.parameters[1]) for fit in fits])
    draws = [bootstrap(fit, samples, 100, generator) for fit, samples in zip(fits, sets, strict=True)]
    drawn = np.mean([np.std(np.exp(draw.parameters[:, 1])) for draw in draws])
    # Wider than the truth, by the uncertainty of the noise itself: Student's t with 6 degrees of freedom has 1.22.
    assert 0.95 * spread < drawn < 1.6 * spread
    noise = np.mean([np.std(draw.level_noise + draw.run_noise) for draw in draws])
    assert 0.8 * 0.03 < noise < 1.4 * 0.03


def test_draws_come_from_the_generator_and_allow_single_runs() -> None:
    samples = samples_of(simulate(power_law(0.5, 0.3), seeds=1))
    fit: Fit = fit_law(PLAIN, samples)
    first, again, other = (bootstrap(fit, samples, 20, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.parameters, again.parameters)
    assert not np.array_equal(first.parameters, other.parameters)
    assert not first.run_noise.any()
    assert first.parameters[:, 1].std() > 0
