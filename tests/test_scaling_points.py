"""Points of scaling: what a line may hold, and how files of them are read."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers_scaling import point

from omni_avsr.config import to_mapping
from omni_avsr.scaling.points import POINTS_NAME, read_points, write_points
from omni_avsr.scaling.samples import compute_levels, make_samples, variables_of


def test_points_come_back_as_they_were_written(tmp_path: Path) -> None:
    points = [point(1e15, 0.5), point(4e15, 0.3, commit="abc", date="2026-01-31", seed=1)]
    write_points(tmp_path / "points.jsonl", points)
    assert read_points([tmp_path / "points.jsonl"]) == points


def test_a_folder_gives_the_points_of_all_runs_in_it(tmp_path: Path) -> None:
    for number in range(3):
        write_points(tmp_path / f"run-{number}" / "deep" / POINTS_NAME, [point(seed=number)])
    (tmp_path / "run-0" / "other.jsonl").write_text("no point\n")
    assert [point.seed for point in read_points([tmp_path])] == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"error": 0.0}, r"2: .*error 0.0 has no logarithm: leave out a run that failed; test one without errors on"),
        ({"error": float("nan")}, "2: .*error nan has no logarithm"),
        ({"error": -0.1}, "2: .*error -0.1 has no logarithm"),
        ({"flops": 0.0}, "2: .*flops: Input should be greater than 0"),
        ({"flops": float("inf")}, "2: .*flops: Input should be a finite number"),
        ({"flops": 2e15}, r"2: .*flops_by_stage adds up to 1e\+15, but flops is 2e\+15"),
        ({"hours_by_stage": {"joint": 1.0}}, r"hours_by_stage \['joint'\]"),
        ({"seed": "7"}, "2: .*seed: Input should be a valid integer"),
        ({"colour": "red"}, "2: .*colour: Unexpected keyword argument"),
    ],
)
def test_a_line_that_is_no_point_is_named(changes: dict, message: str, tmp_path: Path) -> None:
    lines = [to_mapping(point()), {**to_mapping(point(seed=1)), **changes}]
    (tmp_path / "points.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=message):
        read_points([tmp_path / "points.jsonl"])


def test_a_run_that_is_given_twice_is_an_error(tmp_path: Path) -> None:
    write_points(tmp_path / "points.jsonl", [point(), point(seed=1)])
    with pytest.raises(ValueError, match=r"2 runs occur more than once, such as hybrid .* with seed 0: give each once"):
        read_points([tmp_path / "points.jsonl", tmp_path / "points.jsonl"])


def test_missing_files_and_empty_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        read_points([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=f"no {POINTS_NAME} in it or below"):
        read_points([tmp_path])


def test_runs_of_nearly_the_same_compute_are_one_level() -> None:
    assert compute_levels(np.array([4.0, 1.0, 1.05, 4.3, 2.0])).tolist() == [2, 0, 0, 2, 1]


def test_levels_do_not_chain() -> None:
    """Each is within the width of its neighbour, but not all of them of the first."""
    assert compute_levels(1.08 ** np.arange(6)).tolist() == [0, 0, 1, 1, 2, 2]


def test_noisy_points_weigh_less_and_repeats_share_a_cell() -> None:
    points = [point(seed=0), point(seed=1), point(encoder_parameters=20_000_000), point(4e15, 0.25)]
    samples = make_samples(points, variables_of(points)[0], np.array([1.0, 1.0, 1.0, 4.0]))
    assert samples.weights[3] == pytest.approx(samples.weights[0] / 2)
    assert samples.cell[0] == samples.cell[1] != samples.cell[2]
    assert samples.level.tolist() == [0, 0, 0, 1]
    assert samples.cell_means(np.arange(4.0))[samples.cell].tolist() == [0.5, 0.5, 2.0, 3.0]
