"""Many small jobs over processes of one thread each, with progress; a job that fails, hangs or crashes costs itself."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import TypeVar

import cv2
from pebble import ProcessExpired, ProcessPool
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_prep.cores import Slots, claim_core, core_slots
from data_prep.rejection import Problem, ProblemError, Reason

Job = TypeVar("Job")
Result = TypeVar("Result")
JOBS_AHEAD = 8
"""Jobs that wait for each worker, so that none waits for a job; more would only slow the pool down."""


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    num_done: int = 0,
    progress: bool = True,
    time_limit: float | None = None,
) -> Iterator[tuple[Job, Result | Problem]]:
    """Jobs with their results, as they get finished; in place of the result of one that failed, its problem.

    Args:
        function: runs in the workers, so it must be importable, and jobs and results must be picklable.
        workers: processes. One that dies, or is killed at the time limit, is replaced.
        num_done: jobs that were finished before, which the progress display counts too.
        time_limit: seconds for one job.
    """
    if not jobs:
        return
    columns = (TextColumn("clips"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    waiting = iter(jobs)
    running: dict[Future[Result], Job] = {}
    with (
        _one_thread_per_worker(),
        _pool(workers) as pool,
        Progress(*columns, disable=not progress) as display,
    ):
        task = display.add_task("clips", total=num_done + len(jobs), completed=num_done)
        while True:
            while len(running) < workers * JOBS_AHEAD and (job := next(waiting, None)) is not None:
                running[pool.schedule(function, args=[job], timeout=time_limit)] = job
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = _result(future, time_limit)
                yield running.pop(future), result
                display.advance(task)


def _result(future: Future[Result], time_limit: float | None) -> Result | Problem:
    """What the job gave, or what went wrong with it."""
    try:
        return future.result()
    except TimeoutError:
        return Problem(Reason.TIMEOUT, f"not done after {time_limit:g} s (time_limit)")
    except ProcessExpired as error:
        died = f"its process died with exit code {error.exitcode}: out of memory, or a crash inside a decoder"
        return Problem(Reason.WORKER_DIED, died)
    except ProblemError as error:
        return error.problem
    except Exception as error:  # one bad file among thousands must not end the run, whatever library it upsets
        detail = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return Problem(Reason.FAILED, detail)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPool]:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(
        max_workers=workers,
        context=context,
        initializer=_start_worker,
        initargs=[core_slots(context, workers)],
    )
    try:
        yield pool
        pool.close()
    finally:
        # After an interruption what is running or queued is given up; after close() there is nothing left.
        pool.stop()
        pool.join()


def _start_worker(slots: Slots | None) -> None:
    cv2.setNumThreads(1)
    if slots is not None:
        claim_core(slots)


@contextmanager
def _one_thread_per_worker() -> Iterator[None]:
    """Spawned processes inherit the environment, and numeric libraries read it while they are imported."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
