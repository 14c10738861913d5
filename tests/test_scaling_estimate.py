"""From points to laws: the right exponents with honest intervals, the right law, or a refusal."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_scaling import CHEAPEST, grid, point, power_law, simulate

from omni_avsr.scaling.estimate import fit_points, fit_scaling, fit_strategy
from omni_avsr.scaling.laws import FLOORED, PLAIN, Law
from omni_avsr.scaling.points import ScalingPoint
from omni_avsr.scaling.results import read_laws, write_laws

TWO_TERMS = Law(("encoder_parameters", "data_hours"), floor=True)


def two_terms(size: float, hours: float) -> float:
    return 0.03 + 0.3 * (size / 1e6) ** -0.5 + 0.4 * hours**-0.4


def test_on_simulated_sets_exponents_are_right_and_intervals_cover_the_truth() -> None:
    """100 sets of 8 levels and 3 seeds, 300 times the compute, noise of 2 to 5 %; half of them with a floor."""
    generator = np.random.default_rng(2026)
    errors, covered = [], []
    for number in range(100):
        exponent = generator.uniform(0.2, 0.5)
        law = power_law(0.5, exponent, 0.05 * (number % 2))
        points = simulate(law, noise=generator.uniform(0.02, 0.05), generator=generator)
        found = fit_points(points, seed=number).exponents["flops"]
        errors.append(abs(found.value / exponent - 1))
        covered.append(found.low <= exponent <= found.high)
    assert np.median(errors) < 0.1
    assert sum(covered) >= 90


def test_a_floor_is_found_where_there_is_one() -> None:
    fit = fit_points(simulate(power_law(0.4, 0.5, 0.08)), seed=7)
    assert fit.law == FLOORED
    assert fit.floor is not None
    assert fit.floor.low < 0.08 < fit.floor.high
    assert fit.floor.value == pytest.approx(0.08, rel=0.1)


def test_without_a_floor_the_plain_law_is_chosen_but_intervals_allow_for_one() -> None:
    fit = fit_points(simulate(power_law(0.5, 0.3)), seed=7)
    assert (fit.law, fit.floor) == (PLAIN, None)
    assert [rival.law for rival in fit.rivals] == [PLAIN, FLOORED]
    [far] = fit.predict(np.array([[1e5 * CHEAPEST, 1e7, 1.35e8, 10.0]]), "law")
    assert far.high - far.value > far.value - far.low


def test_sizes_and_data_that_matter_each_by_itself_are_found() -> None:
    points = grid(two_terms, (1_000_000, 4_000_000, 16_000_000, 64_000_000), (1, 4, 16, 64), np.random.default_rng(1))
    fit = fit_strategy(points, seed=7)
    assert fit.law == TWO_TERMS
    for variable, exponent in (("encoder_parameters", 0.5), ("data_hours", 0.4)):
        assert fit.exponents[variable].low < exponent < fit.exponents[variable].high
        assert fit.exponents[variable].value == pytest.approx(exponent, rel=0.15)
    [predicted] = fit.predict(np.array([[6e18, 128e6, 135e6, 128.0]]), "law")
    assert predicted.low < two_terms(128e6, 128) < predicted.high


def test_the_dearest_level_is_foretold_from_the_others() -> None:
    fit = fit_strategy(simulate(power_law(0.5, 0.3, 0.05), noise=0.02), seed=7)
    [held_out] = fit.held_out
    assert held_out.factor == pytest.approx(300 ** (1 / 7))
    assert held_out.inside
    assert abs(held_out.relative_error) < 0.1
    assert held_out.measured == pytest.approx(power_law(0.5, 0.3, 0.05)(300 * CHEAPEST), rel=0.05)


def test_a_law_that_breaks_at_the_dearest_level_is_seen_to() -> None:
    points = simulate(power_law(0.5, 0.3), noise=0.02)
    dearest = max(run.flops for run in points)
    broken = [replace(run, error=1.5 * run.error) if run.flops == dearest else run for run in points]
    [held_out] = fit_strategy(broken, seed=7).held_out
    assert not held_out.inside
    assert held_out.relative_error == pytest.approx(1 / 1.5 - 1, abs=0.06)


def test_four_levels_are_fitted_but_none_can_be_left_out_to_be_foretold() -> None:
    fit = fit_strategy(simulate(power_law(0.5, 0.3), levels=4), seed=7)
    assert fit.law == PLAIN
    assert fit.held_out == ()


def flat(_: float) -> float:
    return 0.5


def rising(flops: float) -> float:
    return 0.1 * (flops / CHEAPEST) ** 0.2


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (simulate(power_law(0.5, 0.3), levels=3), "3 levels of compute; a law takes 4 or more: run at further levels"),
        (simulate(power_law(0.5, 0.3), levels=1, seeds=9), "1 levels of compute"),
        (simulate(power_law(0.5, 0.3), span=3.5), r"compute spans a factor of 3\.50; a law takes 4 or more"),
        (simulate(flat), "errors do not fall with compute beyond their noise over 8 levels"),
        (simulate(flat, noise=0.0), "errors do not fall"),
        (simulate(rising), "errors do not fall"),
        (simulate(power_law(0.5, 0.02), noise=0.3), "errors do not fall"),
    ],
)
def test_points_that_tell_no_law_are_refused(points: list[ScalingPoint], message: str) -> None:
    with pytest.raises(ValueError, match=f"no law of hybrid: {message}"):
        fit_scaling(points, seed=7, origin={})


def test_a_strategy_without_a_law_does_not_stop_the_others() -> None:
    points = [*simulate(power_law(0.5, 0.3)), *simulate(power_law(0.5, 0.3), levels=2, strategy="shared")]
    laws = fit_scaling(points, seed=7, origin={})
    assert [fit.strategy for fit in laws.fits] == ["hybrid"]
    assert set(laws.refusals) == {"shared"}
    assert "2 levels of compute" in laws.refusals["shared"]


def test_different_measures_and_no_points_are_errors() -> None:
    with pytest.raises(ValueError, match="measure different things: CER, WER; fit each by itself"):
        fit_scaling([point(), point(measure="CER", seed=1)], seed=7, origin={})
    with pytest.raises(ValueError, match="no points"):
        fit_scaling([], seed=7, origin={})


def test_laws_come_back_from_their_file_and_foretell_the_same(tmp_path: Path) -> None:
    laws = fit_scaling(simulate(power_law(0.5, 0.3, 0.05)), seed=7, origin={"commit": "abc"})
    write_laws(tmp_path / "laws.json", laws)
    read = read_laws(tmp_path / "laws.json")
    assert read == laws
    at = np.array([[1e18, 1e7, 1.35e8, 10.0]])
    assert read.fits[0].predict(at, "run") == laws.fits[0].predict(at, "run")
    [law], [run] = laws.fits[0].predict(at, "law"), laws.fits[0].predict(at, "run")
    assert run.low < law.low < law.value == run.value < law.high < run.high


def test_the_same_seed_gives_the_same_laws() -> None:
    points = simulate(power_law(0.5, 0.3, 0.05))
    assert fit_points(points, seed=1) == fit_points(points, seed=1) != fit_points(points, seed=2)


def test_a_file_of_laws_that_is_missing_or_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file; omni-avsr fit-scaling writes it"):
        read_laws(tmp_path / "laws.json")
    (tmp_path / "laws.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no fitted laws"):
        read_laws(tmp_path / "laws.json")
