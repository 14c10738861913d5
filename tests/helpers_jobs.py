"""Jobs for worker processes, which have to be importable there."""

import os
import signal
import time

from data_prep.rejection import ProblemError, Reason


def run_job(job: str) -> str:
    """Do as the job says."""
    match job:
        case "hang":
            time.sleep(600)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "reject":
            raise ProblemError(Reason.NO_FACE, "nobody there")
        case "core":
            return ",".join(map(str, sorted(os.sched_getaffinity(0))))
        case "fail":
            raise RuntimeError("broken")
    return job.upper()
