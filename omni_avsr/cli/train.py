"""``omni-avsr train``: all stages of an experiment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from omni_avsr.cli.hydra_app import hydra_command
from omni_avsr.config import from_mapping
from omni_avsr.run import RunConfig, run

LOCAL_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
"""Hydra's own, which runs a sweep in one process."""


def main() -> None:
    hydra_command("train", _run)


def _run(values: dict[str, Any]) -> None:
    job = HydraConfig.get()
    if job.mode is RunMode.MULTIRUN and job.launcher["_target_"] == LOCAL_LAUNCHER:
        _run_alone(job.overrides.task)
        return
    # Lightning starts the other processes of a node by running sys.argv, in which the subcommand is no script.
    sys.argv[0] = __file__
    run(from_mapping(RunConfig, values, "train"))


def _run_alone(overrides: Sequence[str]) -> None:
    """A run of a sweep in a process of its own: Lightning's other processes would sweep again, and one process cannot
    train on several devices twice. A run that fails ends the sweep.
    """
    options = [word for word in sys.argv[1:] if word.startswith("-") or "=" not in word]
    kept = [word for word in options if word not in ("-m", "--multirun")]
    done = subprocess.run([sys.executable, __file__, *kept, *overrides, "hydra.mode=RUN"], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
