"""A run that stops at a shorter length and goes on ends as an unbroken one."""

from pathlib import Path

import pytest
import torch
from helpers_model import run_config, stage_tensors, stage_values, write_corpus

from omni_avsr.further import run_further
from omni_avsr.run import RunConfig, run


def config(folder: Path, output: str, num_steps: int, lr: float = 1e-2, schedule: str = "constant") -> RunConfig:
    optimizer = {"lr": lr, "warmup_steps": 2, "schedule": schedule}
    stages = {"first": stage_values("audio_ctc", 2), "last": stage_values("joint", num_steps, optimizer=optimizer)}
    return run_config(folder, folder / output, stages, checkpoint_dtype="float32")


def test_stopping_on_the_way_changes_nothing(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    run(config(tmp_path, "unbroken", 4))
    for num_steps in (1, 3, 4):
        run_further(config(tmp_path, "stopped", num_steps))
        run_further(config(tmp_path, "stopped", num_steps))  # it is there already
    expected, found = stage_tensors(tmp_path / "unbroken"), stage_tensors(tmp_path / "stopped")
    assert expected.keys() == found.keys()
    for stage, tensors in expected.items():
        assert all(torch.equal(value, found[stage][name]) for name, value in tensors.items())


def test_a_run_does_not_go_back_nor_on_with_other_settings(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    run_further(config(tmp_path, "out", 2))
    with pytest.raises(ValueError, match="at step 2, beyond 1"):
        run_further(config(tmp_path, "out", 1))
    with pytest.raises(ValueError, match="another settings but for the length"):
        run_further(config(tmp_path, "out", 3, lr=1.0))
    run_further(config(tmp_path, "decayed", 2, schedule="cosine"))
    with pytest.raises(ValueError, match="ended at step 2, where its rate was zero"):
        run_further(config(tmp_path, "decayed", 3, schedule="cosine"))
