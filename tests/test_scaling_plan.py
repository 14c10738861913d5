"""Plans: what a budget buys by fitted laws, how it is split, what is assumed and warned of."""

from pathlib import Path

import numpy as np
import pytest
from helpers_scaling import CHEAPEST, grid, point, power_law, simulate

from omni_avsr.scaling.estimate import fit_scaling
from omni_avsr.scaling.plan import Option, budget_in_flops, make_plan
from omni_avsr.scaling.plot import plot_laws
from omni_avsr.scaling.points import ScalingPoint
from omni_avsr.scaling.results import ScalingLaws

GOOD, POOR = power_law(0.5, 0.4, 0.04), power_law(0.5, 0.2)


def sliding(flops: float, seed: int) -> ScalingPoint:
    """Its joint stage has half of the cheapest run and nine tenths of one of 256 times the compute."""
    share = 0.5 + 0.05 * float(np.log2(flops / CHEAPEST))
    spent = {"encoders": (1 - share) * flops, "joint": share * flops}
    hours = {"encoders": spent["encoders"] / 1e14, "joint": spent["joint"] / 2e14}
    error = GOOD(flops) * (1 + 0.01 * seed)
    return point(flops, error, flops_by_stage=spent, hours_by_stage=hours, data_hours=2.0, seed=seed)


def hybrid(laws: ScalingLaws, flops: float, hours: float) -> Option:
    """What a budget buys with that strategy, be it the best or not."""
    [option] = [option for option in make_plan(laws, flops, hours).options if option.strategy == "hybrid"]
    return option


def two_terms(size: float, hours: float) -> float:
    return 0.03 + 0.3 * (size / 1e6) ** -0.5 + 0.4 * hours**-0.4


def joint_laws() -> ScalingLaws:
    """Laws of four encoder sizes, each trained on four amounts of data."""
    sizes = (1_000_000, 4_000_000, 16_000_000, 64_000_000)
    return fit_scaling(grid(two_terms, sizes, (1, 4, 16, 64), np.random.default_rng(1)), 7, {})


@pytest.fixture(scope="module")
def laws() -> ScalingLaws:
    points = [sliding(CHEAPEST * 4.0**level, seed) for level in range(5) for seed in (-1, 1)]
    few = simulate(GOOD, levels=2, strategy="task_specific", data_hours=2.0)
    return fit_scaling([*points, *simulate(POOR, strategy="shared", data_hours=2.0), *few], 7, {})


def test_the_strategy_with_the_lowest_predicted_error_comes_first(laws: ScalingLaws) -> None:
    plan = make_plan(laws, 100 * CHEAPEST, 2.0)
    assert [option.strategy for option in plan.options] == ["hybrid", "shared"]
    for option, law in zip(plan.options, (GOOD, POOR), strict=True):
        assert option.predicted.value == pytest.approx(law(100 * CHEAPEST), rel=0.05)
        assert option.predicted.low < law(100 * CHEAPEST) < option.predicted.high
        assert option.warnings == ()
    assert set(plan.refusals) == {"task_specific"}
    assert not [line for line in plan.assumptions if "overlap" in line]


def test_the_best_strategy_depends_on_the_budget() -> None:
    """Here one is better while compute is small, and the other when it is large."""
    early, late = power_law(0.3, 0.1), power_law(0.6, 0.5)
    generator = np.random.default_rng(7)
    points = [
        run
        for strategy, law in (("early", early), ("late", late))
        for run in simulate(law, noise=0.02, strategy=strategy, generator=generator)
    ]
    laws = fit_scaling(points, 7, {})
    assert [make_plan(laws, times * CHEAPEST, 10.0).options[0].strategy for times in (1.5, 250)] == ["early", "late"]
    even = (0.6 / 0.3) ** (1 / 0.4) * CHEAPEST
    assert any("early" in line and "overlap" in line for line in make_plan(laws, even, 10.0).assumptions)


def test_the_budget_is_split_as_at_the_nearest_compute(laws: ScalingLaws) -> None:
    def split(flops: float) -> dict[str, float]:
        return {stage.stage: stage.share for stage in hybrid(laws, flops, 2.0).stages}

    assert split(16 * CHEAPEST) == pytest.approx({"encoders": 0.3, "joint": 0.7})
    assert split(32 * CHEAPEST) == pytest.approx({"encoders": 0.25, "joint": 0.75})
    assert split(1e3 * CHEAPEST) == pytest.approx({"encoders": 0.1, "joint": 0.9})
    assert split(0.5 * CHEAPEST) == pytest.approx({"encoders": 0.5, "joint": 0.5})


def test_epochs_are_what_a_stage_pays_for_on_the_data(laws: ScalingLaws) -> None:
    flops = 16 * CHEAPEST
    encoders, joint = make_plan(laws, flops, 2.0).options[0].stages
    assert encoders.flops + joint.flops == pytest.approx(flops)
    assert encoders.epochs == pytest.approx(0.3 * flops / 1e14 / 2.0)
    assert joint.epochs == pytest.approx(0.7 * flops / 2e14 / 2.0)
    assert make_plan(laws, flops, 4.0).options[0].stages[1].epochs == pytest.approx(joint.epochs / 2)


@pytest.mark.parametrize(
    ("flops", "hours", "expected"),
    [
        (2000 * CHEAPEST, 2.0, "compute lies a factor of 7.81 beyond the points (more than 3)"),
        (CHEAPEST / 5, 2.0, "compute lies a factor of 5 beyond the points"),
        (CHEAPEST, 20.0, "data lies a factor of 10 beyond the points"),
        (16 * CHEAPEST, 4.0, "the law has no term for data; its points had 2 to 2 hours, not 4"),
        (256 * CHEAPEST, 0.1, "joint: 1.15e+04 epochs, the points had 1.25 to 576"),
    ],
)
def test_a_plan_warns_where_it_leaves_the_points(laws: ScalingLaws, flops: float, hours: float, expected: str) -> None:
    warnings = hybrid(laws, flops, hours).warnings
    assert [warning for warning in warnings if expected in warning], warnings


def test_few_levels_are_warned_of_as_they_cannot_show_a_floor() -> None:
    laws = fit_scaling(simulate(POOR, levels=4), 7, {})
    [option] = make_plan(laws, 10 * CHEAPEST, 10.0).options
    assert any("too few levels of compute for a law with a floor" in warning for warning in option.warnings)


def test_sizes_are_those_that_the_law_foretells_best_and_that_were_run() -> None:
    laws = joint_laws()
    [option] = make_plan(laws, 1e6 * 64_000_000 * 32, 32.0).options
    assert option.encoder_parameters == 64_000_000
    assert option.predicted.low < two_terms(64e6, 32) < option.predicted.high
    # A large one could not see the data even once for that: the points hold no such run.
    [poor] = make_plan(laws, 1e6 * 1_000_000 * 32, 32.0).options
    assert poor.encoder_parameters < 64_000_000


def test_the_sizes_of_a_law_of_compute_are_those_run_at_the_nearest_compute() -> None:
    points = [
        point(run.flops, run.error, seed=run.seed, encoder_parameters=1_000_000 if run.flops < 2e16 else 9_000_000)
        for run in simulate(GOOD)
    ]
    laws = fit_scaling(points, 7, {})
    chosen = [make_plan(laws, flops, 10.0).options[0].encoder_parameters for flops in (2e15, 2e17)]
    assert chosen == [1_000_000, 9_000_000]


@pytest.mark.parametrize("text", ["3e18", "3E18 FLOPs", "3000000000000000000flop"])
def test_budgets_in_flops(text: str) -> None:
    assert budget_in_flops(text, None, 0.3) == (3e18, [])


def test_budgets_in_gpu_hours_state_what_they_assume() -> None:
    flops, [assumed] = budget_in_flops("40 GPU-hours", 3e14, 0.25)
    assert flops == pytest.approx(40 * 3600 * 3e14 * 0.25)
    assert assumed == "40 GPU-hours at 25% of 3e+14 FLOP/s are 1.08e+19 FLOPs"


@pytest.mark.parametrize(
    ("text", "device_flops", "utilisation", "message"),
    [
        ("much", None, 0.3, "give FLOPs"),
        ("-3e18", None, 0.3, "give FLOPs"),
        ("0", None, 0.3, "more than 0"),
        ("1.2.3", None, 0.3, "give FLOPs"),
        ("1e999", None, 0.3, "give FLOPs"),
        ("40GPU-hours", None, 0.3, "--device-flops"),
        ("40GPU-hours", -1.0, 0.3, "device FLOP/s must be above 0"),
        ("40GPU-hours", 3e14, 1.5, r"utilisation in \(0, 1\], got 300000000000000.0, 1.5"),
    ],
)
def test_a_budget_that_is_none_is_an_error(
    text: str, device_flops: float | None, utilisation: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        budget_in_flops(text, device_flops, utilisation)


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan"), float("inf")])
def test_hours_that_are_none_are_an_error(laws: ScalingLaws, hours: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        make_plan(laws, 1e17, hours)


def test_the_plot_shows_points_laws_and_bands_dashed_beyond_the_points(
    laws: ScalingLaws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plot_laws(tmp_path / "real.png", laws)
    assert (tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")
    figures: list = []
    monkeypatch.setattr("omni_avsr.scaling.plot.save_figure", lambda path, figure: figures.append(figure))
    plot_laws(tmp_path / "plot.png", laws)
    [axes] = figures[0].axes
    curves = [line for line in axes.lines if len(line.get_xdata()) == 60]
    assert [line.get_linestyle() for line in curves] == ["-", "--", "-", "--"]
    solid, dashed = curves[:2]
    assert solid.get_xdata()[-1] == dashed.get_xdata()[0] == pytest.approx(256 * CHEAPEST)
    assert solid.get_ydata()[0] == pytest.approx(100 * GOOD(CHEAPEST), rel=0.05)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["hybrid: E + a C^-b", f"shared: {laws.fits[1].law.formula}", "task_specific: no law"]


def test_joint_laws_are_drawn_as_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laws = joint_laws()
    figures: list = []
    monkeypatch.setattr("omni_avsr.scaling.plot.save_figure", lambda path, figure: figures.append(figure))
    plot_laws(tmp_path / "plot.png", laws)
    assert laws.fits[0].law.variables != ("flops",)
    assert not [line for line in figures[0].axes[0].lines if len(line.get_xdata()) == 60]
