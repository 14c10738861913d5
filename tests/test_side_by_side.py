"""Jobs in processes of their own: one that fails leaves its reason and the others alone."""

from functools import partial
from pathlib import Path

from omni_avsr.side_by_side import run_side_by_side


def work(number: int, folder: Path) -> None:
    print(f"this is {number}")
    if number == 2:
        raise ValueError("two is too much")
    (folder / f"{number}.txt").write_text("done")


def test_a_job_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    jobs = {"one": 1, "two": 2, "three": 3}
    run_side_by_side(partial(work, folder=tmp_path), jobs, tmp_path / "logs", processes=2)
    assert sorted(path.name for path in tmp_path.glob("*.txt")) == ["1.txt", "3.txt"]
    said = {name: (tmp_path / "logs" / f"{name}.log").read_text() for name in jobs}
    assert all(f"this is {number}" in said[name] for name, number in jobs.items())
    assert "two failed" in said["two"]
    assert "ValueError: two is too much" in said["two"]
