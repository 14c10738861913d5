"""Counting where two evaluations of the same clips differ."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.disagreement import disagreement
from omni_avsr.hypotheses import write_hypotheses
from omni_avsr.types import Hypothesis, Task


def test_what_both_hold_is_compared_by_task_and_rates(tmp_path: Path) -> None:
    one = Hypothesis("a", Task.ASR, "4", "bin blue", "bin blue", "test")
    first = [one, replace(one, id="b"), replace(one, task=Task.VSR, rates="2"), replace(one, snr_db=0.0)]
    second = [one, replace(one, id="b", text="bin red"), replace(one, task=Task.VSR, rates="2"), replace(one, id="c")]
    for name, hypotheses in (("first", first), ("second", second)):
        (tmp_path / name).mkdir()
        write_hypotheses(tmp_path / name / "hypotheses-test.jsonl", hypotheses)
    assert disagreement(tmp_path / "first", tmp_path / "second") == {
        "asr 4": {"hypotheses": 2, "differing": 0.5},
        "vsr 2": {"hypotheses": 1, "differing": 0.0},
        "all": {"hypotheses": 3, "differing": 1 / 3},
    }


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="have no hypothesis in common"):
        disagreement(tmp_path / "first", tmp_path / "second")
