"""Many small jobs over processes of one thread each, with progress; a job that fails costs only itself."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import cv2
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, num_done: int = 0, progress: bool = True
) -> Iterator[tuple[Job, Result | str]]:
    """Jobs with their results, as they get finished; in place of the result of one that failed, the reason.

    Args:
        function: runs in the workers, so it must be importable, and jobs and results must be picklable.
        workers: processes.
        num_done: jobs that were finished before, which the progress display counts too.

    Raises:
        ChildProcessError: a worker died.
    """
    if not jobs:
        return
    columns = (TextColumn("clips"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with (
        _one_thread_per_worker(),
        ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
        ) as pool,
        Progress(*columns, disable=not progress) as display,
    ):
        task = display.add_task("clips", total=num_done + len(jobs), completed=num_done)
        futures = {pool.submit(_attempt, function, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
                display.advance(task)
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker died at once (out of memory, or a crash inside a decoder); finished clips are kept, run "
                "again to go on"
            ) from error
        finally:
            # Without it an interrupted run would first work through all that was queued.
            pool.shutdown(cancel_futures=True)


def _attempt(function: Callable[[Job], Result], job: Job) -> Result | str:
    """``function(job)``, with the reason in place of an exception."""
    try:
        return function(job)
    except Exception as error:  # one bad file among thousands must not end the run, whatever library it upsets
        return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


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
