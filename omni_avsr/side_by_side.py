"""Many independent jobs, each in a process of its own with one thread and a log."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)


def run_side_by_side(work: Callable[[Any], object], jobs: Mapping[str, Any], logs: Path, processes: int) -> None:
    """Call ``work`` with each job, so many at once, in their order.

    What a job says is appended to ``logs``/<name>.log, its error too; the other jobs go on.

    Args:
        work: a function of a module, or a ``functools.partial`` of one.
        jobs: by name.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        for _ in pool.imap_unordered(_Logged(work, logs), jobs.items(), chunksize=1):
            pass


@dataclass(frozen=True)
class _Logged:
    work: Callable[[Any], object]
    logs: Path

    def __call__(self, job: tuple[str, Any]) -> None:
        name, value = job
        torch.set_num_threads(1)
        with (self.logs / f"{name}.log").open("a") as file:
            sys.stdout = sys.stderr = file
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=file, force=True)
            try:
                self.work(value)
            except Exception:
                log.exception("%s failed", name)
