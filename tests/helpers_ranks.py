"""Runs in one or several processes that talk by gloo, some killed on the way: forks, which import everything once.

``start`` starts a Python process, which forks the ranks of each attempt before it computes anything itself.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from omni_avsr.config import from_mapping
from omni_avsr.objectives.recognition import RecognitionObjective
from omni_avsr.run import RunConfig, run

TIMEOUT = 300
"""Seconds after which a process counts as hanging."""


def attempt(values: dict[str, Any], die_in: int | None = None) -> dict[str, Any]:
    """One attempt at a run; ``die_in`` is the training step through the LLM in which every rank is killed."""
    return {"values": values, "die_in": die_in}


def start(folder: Path, attempts: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Make the attempts one after another; returns the exit status of each rank of each of them."""
    (folder / "attempts.json").write_text(json.dumps(attempts))
    code = "import sys; import helpers_ranks; helpers_ranks.fork_all(sys.argv[1])"
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(folder / "attempts.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr[-3000:]
    sys.stderr.write(done.stderr)  # pytest shows it when the test fails
    return json.loads(done.stdout.splitlines()[-1])


def fork_all(path: str) -> None:
    torch.set_num_threads(1)
    statuses = [_fork(one["values"], one["die_in"]) for one in json.loads(Path(path).read_text())]
    sys.stdout.write(f"\n{json.dumps(statuses)}\n")


def _fork(values: dict[str, Any], die_in: int | None) -> list[int]:
    """The ranks as Lightning expects them from whoever starts processes in its place."""
    config = from_mapping(RunConfig, values)
    port, children = str(find_free_network_port()), []
    for rank in range(values["trainer"].get("devices", 1)):
        child = os.fork()
        if child == 0:
            signal.alarm(TIMEOUT)
            os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            if die_in is not None:
                _die_in(die_in)
            status = 1
            try:
                run(config)
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _die_in(step: int) -> None:
    forward, count = RecognitionObjective.forward, 0

    def wrapper(*args: Any) -> Any:
        nonlocal count
        count += torch.is_grad_enabled()
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(*args)

    RecognitionObjective.forward = wrapper  # type: ignore[method-assign]
