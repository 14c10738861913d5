"""One run at several lengths of its last stage: it stops, is scored, and goes on as if it had not stopped."""

from __future__ import annotations

import hashlib
import json

from omni_avsr.checkpoint import TRAINED
from omni_avsr.config import to_mapping
from omni_avsr.provenance import ORIGIN, bind_results
from omni_avsr.resume import ResumePoint
from omni_avsr.run import RECORD, RunConfig, run

RESUME = "resume.pt"


def run_further(config: RunConfig) -> None:
    """``run`` to the lengths of its stages, from an earlier point of its last stage where there is one.

    At a constant rate a longer run begins as a shorter one does, so that each point is what a run of that length would
    have been.

    Raises:
        ValueError: as of ``run``; the output folder holds a run with other settings, or one that is further already; or
            the last stage would go on, but its rate falls with the number of its steps.
    """
    *_, (name, last) = config.stages.items()
    settings = to_mapping(config)
    del settings["stages"][name]["num_steps"]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    config.output.mkdir(parents=True, exist_ok=True)
    bind_results(config.output, {"settings but for the length": digest})
    folder = config.output / "stages" / f"{len(config.stages) - 1}-{name}"
    point, ended = ResumePoint.load(folder / RESUME), (folder / TRAINED).is_file()
    if point is not None and point.step > last.num_steps:
        raise ValueError(
            f"{folder} is at step {point.step}, beyond {last.num_steps}; delete {config.output} to start over"
        )
    if point is not None and ended and point.step < last.num_steps and last.optimizer.schedule != "constant":
        raise ValueError(f"{folder} ended at step {point.step}, where its rate was zero; only a constant one goes on")
    # Without these the stage counts as unfinished, and its resume point as one of the longer run, which it is.
    for stale in (TRAINED, RECORD, ORIGIN):
        (folder / stale).unlink(missing_ok=True)
    run(config)
