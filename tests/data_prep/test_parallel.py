"""The pool of workers: a job that fails, hangs or kills its process costs that job and nothing else."""

import os

from helpers_jobs import run_job

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
