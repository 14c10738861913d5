"""The pool of workers: a job that fails, hangs or kills its process costs that job and nothing else."""

import multiprocessing
import os

import pytest
from helpers_jobs import run_job

from data_prep.cores import claim_core
from data_prep.parallel import run_jobs
from data_prep.rejection import Problem, Reason


def test_every_job_gets_its_result_or_its_problem() -> None:
    jobs = ["a", "reject", "hang", "b", "die", "fail", *map(str, range(30))]
    results = dict(run_jobs(run_job, jobs, workers=2, progress=False, time_limit=8))
    assert sorted(results) == sorted(jobs)
    assert {job: results[job] for job in jobs if job not in ("reject", "hang", "die", "fail")} == {
        job: job.upper() for job in jobs if job not in ("reject", "hang", "die", "fail")
    }
    assert results["reject"] == Problem(Reason.NO_FACE, "nobody there")
    assert results["hang"] == Problem(Reason.TIMEOUT, "not done after 8 s (time_limit)")
    assert results["fail"] == Problem(Reason.FAILED, "RuntimeError: broken")
    died = results["die"]
    assert isinstance(died, Problem)
    assert died.reason is Reason.WORKER_DIED
    assert "exit code -9" in died.detail


def test_no_jobs_start_no_process() -> None:
    assert list(run_jobs(run_job, [], workers=2, progress=False)) == []


def test_a_caller_that_stops_early_is_not_kept_waiting_and_its_environment_is_restored() -> None:
    before = dict(os.environ)
    results = run_jobs(run_job, ["a", "hang", "hang"], workers=1, progress=False)
    assert next(results) == ("a", "A")
    results.close()
    assert dict(os.environ) == before


def test_where_every_core_has_a_worker_each_keeps_to_one() -> None:
    """A worker that takes the place of a dead one takes its core."""
    cores = sorted(map(str, os.sched_getaffinity(0)))
    jobs = ["core", "die", *["core"] * 40 * len(cores)]
    results = [result for job, result in run_jobs(run_job, jobs, len(cores), progress=False) if job == "core"]
    assert len(results) == len(jobs) - 1
    assert set(results) <= set(cores)


def test_fewer_workers_than_cores_keep_to_none() -> None:
    """Of several runs on one machine all would choose the same cores."""
    cores = os.sched_getaffinity(0)
    if len(cores) == 1:
        pytest.skip("this machine has a single core")
    [(_, seen)] = run_jobs(run_job, ["core"], workers=1, progress=False)
    assert seen == ",".join(map(str, sorted(cores)))


def test_a_core_is_claimed_once_and_again_when_its_worker_is_dead() -> None:
    slots = multiprocessing.get_context("spawn").Array("q", [os.getppid(), 2**22 + 1])
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("this machine has a single core")
    try:
        claim_core(slots)
        assert list(slots) == [os.getppid(), os.getpid()]
        assert os.sched_getaffinity(0) == {sorted(before)[1]}
    finally:
        os.sched_setaffinity(0, before)
