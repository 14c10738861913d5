"""A core for each worker: MediaPipe's threads hand every frame to each other, and across cores that costs a third."""

from __future__ import annotations

import os
from multiprocessing.context import SpawnContext
from multiprocessing.sharedctypes import SynchronizedArray

Slots = SynchronizedArray  # the process that has each of this process's cores, 0 for none


def num_cores() -> int:
    """The cores that this process may use; a cluster gives a job a few of a machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_slots(context: SpawnContext, workers: int) -> Slots | None:
    """Slots for workers to claim cores by, or None where they have to share them.

    Only a run that has a worker for each of its cores hands them out: of several runs on one machine that each have a
    few, all would claim the same ones.
    """
    if not hasattr(os, "sched_getaffinity") or workers != num_cores():
        return None
    return context.Array("q", workers)


def claim_core(slots: Slots) -> None:
    """Keep this process to a core that no living worker has; to none in particular if there is none left."""
    with slots.get_lock():
        for slot, core in enumerate(sorted(os.sched_getaffinity(0))):
            if not _is_alive(slots[slot]):
                slots[slot] = os.getpid()
                os.sched_setaffinity(0, {core})
                return


def _is_alive(process: int) -> bool:
    if not process:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
