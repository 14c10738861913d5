"""A sweep: one run for each value, each in a folder of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_model import run_values, stage_values, write_configs, write_corpus


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_sweep_trains_one_run_for_each_value(tmp_path: Path, devices: int) -> None:
    write_corpus(tmp_path / "corpus")
    values = run_values(tmp_path, tmp_path / "rank-${model.adapters.rank}", {"joint": stage_values("joint", 1)})
    if devices > 1:
        values["trainer"] |= {"devices": devices, "strategy": "ddp_find_unused_parameters_true"}
    arguments = write_configs(tmp_path / "conf", values)
    code = "from omni_avsr.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "-m", *arguments, "model.adapters.rank=2,3"],
        env=os.environ | {"COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (2, 3):
        config = json.loads((tmp_path / f"rank-{rank}" / "checkpoint" / "config.json").read_text())
        assert config["model"]["adapters"]["rank"] == rank
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} >= {"rank-2", "rank-3"}
    assert not (tmp_path / "multirun").exists()
