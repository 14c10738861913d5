"""A run that is killed in bad moments and started again ends with the weights of an unbroken one, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_model import run_values, stage_tensors, stage_values, write_corpus

from omni_avsr import run as run_module
from omni_avsr.config import from_mapping
from omni_avsr.objectives.ctc import CTCObjective
from omni_avsr.objectives.recognition import RecognitionObjective
from omni_avsr.run import RunConfig, run

TIMEOUT = 300
"""Seconds after which a process of the broken run counts as hanging."""
NUM_STEPS = 5
"""A step takes two batches of two of the ten clips, so epochs end in the middle of steps."""


def settings(folder: Path, output: Path, num_workers: int) -> dict[str, Any]:
    stages = {kind: stage_values(kind, NUM_STEPS, 2, validate_every=2) for kind in ("video_ctc", "projector", "joint")}
    stages["projector"]["feature_variants"] = 3
    stages["joint"]["objective"]["conflict"] = {"share": 0.5, "seconds": 0.1}
    values = run_values(folder, output, stages, resume_steps=2)
    values["data"]["num_workers"] = num_workers
    values["model"]["adapters"]["dropout"] = 0.1
    return values


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(owner: Any, name: str, call: int, before: bool) -> None:
    """Let ``owner.name`` end the process at its ``call``-th call in training mode, before or after its work."""
    original: Callable[..., Any] = getattr(owner, name)
    count = 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += torch.is_grad_enabled()
        if count == call and before:
            die()
        result = original(*args, **kwargs)
        if count == call:
            die()
        return result

    setattr(owner, name, wrapper)


# Calls that are counted from the start of the process, so from its resume point on.
KILLS: tuple[Callable[[], None], ...] = (
    # The encoder's fourth step, between its two batches; the resume point is the one after two steps.
    lambda: die_at(CTCObjective, "forward", 8, before=True),
    # The projector stage has just written its tensors; the joint stage does not exist yet.
    lambda: die_at(run_module, "save_tensors", 2, before=False),
    # The joint stage's third step, between its two batches, right after a resume point.
    lambda: die_at(RecognitionObjective, "forward", 6, before=True),
)


def attempts(path: str) -> None:
    """Run until the run ends by itself, in a process of its own each time; prints how each of them ended.

    The processes are forks, made before any of them computed anything: that saves importing everything four times.
    """
    config = from_mapping(RunConfig, json.loads(Path(path).read_text()))
    torch.set_num_threads(1)
    statuses = []
    for kill in (*KILLS, lambda: None):
        child = os.fork()
        if child == 0:
            signal.alarm(TIMEOUT)  # a fork would outlive the timeout of the process that waits for it
            kill()
            run(config)
            os._exit(0)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        stages = sorted(stage.parent.name for stage in config.output.glob("stages/*/resume.pt"))
        sys.stdout.write(f"{statuses[-1]} {','.join(stages)}\n")
        sys.stdout.flush()


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    unbroken = from_mapping(RunConfig, settings(tmp_path, tmp_path / "unbroken", num_workers=0))
    run(unbroken)
    values = settings(tmp_path, tmp_path / "broken", num_workers=1)
    (tmp_path / "broken.json").write_text(json.dumps(values))
    code = "import sys; import test_resume_run; test_resume_run.attempts(sys.argv[1])"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "broken.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    ends = [line for line in done.stdout.splitlines() if line.partition(" ")[0] in ("-9", "0", "1")]
    encoder, projector, joint = "0-video_ctc", "1-projector", "2-joint"
    assert ends == [
        f"-9 {encoder}",
        f"-9 {encoder},{projector}",
        f"-9 {encoder},{projector},{joint}",
        f"0 {encoder},{projector},{joint}",
    ], done.stderr[-3000:]
    expected, found = stage_tensors(unbroken.output), stage_tensors(tmp_path / "broken")
    assert list(found) == list(expected) == [encoder, projector, joint]
    for stage, tensors in expected.items():
        assert found[stage].keys() == tensors.keys()
        differing = [name for name, value in tensors.items() if not torch.equal(value, found[stage][name])]
        assert differing == [], stage
        records = [
            json.loads((output / "stages" / stage / "record.json").read_text())
            for output in (unbroken.output, tmp_path / "broken")
        ]
        assert records[0]["flops"] == records[1]["flops"] != {}
