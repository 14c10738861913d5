"""Peak memory of training by each method, in a process of its own that is killed above what an 8 GB board leaves it.

    python experiments/005-one-person/memory.py PREPARED RUNS

PREPARED, RUNS: as of run.py. A few steps are trained on one talker; memory.jsonl beside this script gets a line for
each method. What stands there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from arms import METHODS, SEED, TALKERS, Arm
from run import BOARD_GIB, Folders, run_config

from omni_avsr.edge.budget import process_bytes
from omni_avsr.edge.meter import resident, run_limited
from omni_avsr.files import write_atomically
from omni_avsr.provenance import commit, today
from omni_avsr.run import train_stages

OUTPUT = Path(__file__).resolve().parent / "memory.jsonl"
STEPS = 5
"""Of the last stage; those before it have theirs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method is not None:
        torch.set_num_threads(1)
        train(options.method, options.prepared, options.runs)
        return
    lines = [json.loads(line) for line in OUTPUT.read_text().splitlines()] if OUTPUT.is_file() else []
    for method in METHODS:
        if method in {line["method"] for line in lines}:
            continue
        command = [sys.executable, __file__, str(options.prepared), str(options.runs), "--method", method]
        outcome = run_limited(command, process_bytes(BOARD_GIB))
        outcome.check()
        peaks = json.loads(outcome.output.splitlines()[-1])
        lines.append({"method": method, **peaks, "limit": outcome.limit, "commit": commit(), "date": today()})
        write_atomically(OUTPUT, "".join(json.dumps(line) + "\n" for line in lines))


def train(method: str, prepared: Path, runs: Path) -> None:
    """Say the peak of what importing took, and of training."""
    arm = Arm(TALKERS[0], method, METHODS[method].base)
    libraries = resident().peak
    with TemporaryDirectory() as scratch:
        train_stages(replace(run_config(arm, STEPS, Folders(prepared, runs)), output=Path(scratch)))
    sys.stdout.write(json.dumps({"seed": SEED, "libraries": libraries, "peak": resident().peak}) + "\n")


if __name__ == "__main__":
    main()
