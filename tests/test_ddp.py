"""Two processes, started by the command line, train as one process does at the same global batch."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers_model import run_values, stage_tensors, stage_values, write_configs, write_corpus

from omni_avsr.config import from_mapping
from omni_avsr.run import RunConfig, run

KINDS = ("audio_ctc", "joint")
"""Batch norm, whose running statistics each rank keeps of its own batches, is frozen in both."""


def settings(folder: Path, output: Path, accumulation: int) -> dict:
    stages = {kind: stage_values(kind, 3, accumulation, validate_every=3) for kind in KINDS}
    stages["joint"]["feature_variants"] = 2
    stages["joint"]["objective"]["conflict"] = {"share": 0.5, "seconds": 0.1}
    return run_values(folder, output, stages)


def logged(output: Path, stage: str, name: str) -> list[float]:
    with (output / "stages" / stage / "csv" / "from-step-0" / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


@pytest.mark.slow
def test_two_processes_give_the_losses_and_weights_of_one(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    one = from_mapping(RunConfig, settings(tmp_path, tmp_path / "one", accumulation=2))
    run(one)
    values = settings(tmp_path, tmp_path / "two", accumulation=1)
    values["trainer"] = {"accelerator": "cpu", "devices": 2, "strategy": "ddp_find_unused_parameters_true"}
    arguments = write_configs(tmp_path / "conf", values)
    code = "from omni_avsr.cli.main import main; main()"
    command = [sys.executable, "-c", code, "train", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    two = tmp_path / "two"
    expected, found = stage_tensors(one.output), stage_tensors(two)
    assert list(found) == list(expected) == [f"{number}-{kind}" for number, kind in enumerate(KINDS)]
    for stage, tensors in expected.items():
        for name in ("train/ctc",) if "ctc" in stage else ("train/loss", "train/vsr_loss"):
            losses = logged(one.output, stage, name)
            assert len(losses) == 3
            assert logged(two, stage, name) == pytest.approx(losses, rel=1e-5)
        assert logged(two, stage, "validation/loss") == pytest.approx(
            logged(one.output, stage, "validation/loss"), rel=1e-5
        )
        assert found[stage].keys() == tensors.keys()
        flops = [
            json.loads((folder / "stages" / stage / "record.json").read_text())["flops"] for folder in (one.output, two)
        ]
        assert flops[0] == flops[1] != {}
        for name, value in tensors.items():
            torch.testing.assert_close(found[stage][name], value, rtol=1e-5, atol=1e-6, msg=f"{stage} {name}")
    assert (two / "checkpoint" / "config.json").is_file()
