"""Prepare a corpus: every source clip to mouth crops and audio, in parallel and resumable, then one manifest."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import cv2
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_prep.clip import ClipJob, ClipRecord, attempt_clip, finished
from data_prep.sources import SourceClip
from omni_avsr.data.manifest import write_manifest
from omni_avsr.files import write_atomically
from omni_avsr.types import Clip

MANIFEST_NAME = "manifest.jsonl"
FAILED_NAME = "failed.jsonl"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareOptions:
    """face_model: MediaPipe's face_landmarker.task; None will do for audio alone. workers: processes of one thread.

    lossless: keep every pixel of the crops (about 57 kB a second); otherwise x264 at ``crf`` (12: about 12 kB).
    """

    face_model: Path | None = None
    workers: int = 1
    lossless: bool = True
    crf: int = 12
    progress: bool = True


@dataclass(frozen=True)
class Failure:
    """A clip that could not be prepared; one line of failed.jsonl."""

    id: str
    source: str
    reason: str


@dataclass(frozen=True)
class PrepareReport:
    """What a run did: clips made now, clips found finished, and the ones that failed, sorted by id."""

    manifest: Path
    num_prepared: int
    num_finished_before: int
    failures: tuple[Failure, ...]
    seconds: float


def prepare(sources: Sequence[SourceClip], output: Path, options: PrepareOptions) -> PrepareReport:
    """Write ``output``/{video,audio}/<id>.{mp4,flac} and ``output``/manifest.jsonl for all sources.

    Clips finished by an earlier run are skipped, unless their source or the options for the crops have changed. A
    clip that fails is logged and listed in ``output``/failed.jsonl, and the others go on; the next run tries it again.
    The manifest is sorted by id and depends only on the sources. ValueError for ids that collide or leave ``output``,
    and for options that make no sense.
    """
    begun = time.monotonic()
    _check(sources, options)
    output.mkdir(parents=True, exist_ok=True)
    failures = {s.id: Failure(s.id, str(s.media), s.problem) for s in sources if s.problem is not None}
    jobs = {
        s.id: ClipJob(s.id, s.media, output, options.face_model, options.lossless, options.crf)
        for s in sources
        if s.id not in failures
    }
    records = {id: record for id, job in jobs.items() if (record := finished(job)) is not None}
    num_finished_before = len(records)
    for failure in failures.values():
        logger.warning("clip %s: %s", failure.id, failure.reason)
    for job, result in _run([job for id, job in jobs.items() if id not in records], options, len(records)):
        if isinstance(result, ClipRecord):
            records[job.id] = result
        else:
            failures[job.id] = Failure(job.id, str(job.media), result)
            logger.warning("clip %s: %s", job.id, result)
    clips = [_clip(s, jobs[s.id], records[s.id]) for s in sorted(sources, key=lambda s: s.id) if s.id in records]
    failed = tuple(failures[id] for id in sorted(failures))
    write_manifest(output / MANIFEST_NAME, clips)
    write_atomically(output / FAILED_NAME, "".join(f"{json.dumps(asdict(failure))}\n" for failure in failed))
    if not clips:
        raise ValueError(f"none of {len(sources)} clips could be prepared; the reasons are in {output / FAILED_NAME}")
    return PrepareReport(
        manifest=output / MANIFEST_NAME,
        num_prepared=len(records) - num_finished_before,
        num_finished_before=num_finished_before,
        failures=failed,
        seconds=time.monotonic() - begun,
    )


def _check(sources: Sequence[SourceClip], options: PrepareOptions) -> None:
    if not sources:
        raise ValueError("no clips to prepare")
    if options.workers < 1:
        raise ValueError(f"workers must be at least 1, got {options.workers}")
    if options.face_model is not None and not options.face_model.is_file():
        raise ValueError(f"face model {options.face_model} does not exist")
    media_of: dict[str, Path] = {}
    for source in sources:
        parts = PurePosixPath(source.id).parts
        if not parts or PurePosixPath(source.id).is_absolute() or ".." in parts:
            raise ValueError(f"{source.media}: the id {source.id!r} is no path inside the output folder")
        if source.id in media_of:
            raise ValueError(f"{source.media} and {media_of[source.id]} would both become clip {source.id!r}")
        media_of[source.id] = source.media


def _run(jobs: list[ClipJob], options: PrepareOptions, done: int) -> Iterator[tuple[ClipJob, ClipRecord | str]]:
    """Each job with its record or the reason why it failed, in the order in which they end."""
    if not jobs:
        return
    columns = (TextColumn("clips"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with (
        _one_thread_per_worker(),
        ProcessPoolExecutor(
            options.workers, multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
        ) as pool,
        Progress(*columns, disable=not options.progress) as progress,
    ):
        task = progress.add_task("clips", total=done + len(jobs), completed=done)
        futures = {pool.submit(attempt_clip, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
                progress.advance(task)
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker died at once (out of memory, or a crash inside a decoder); finished clips are kept, run "
                "again to go on"
            ) from error
        finally:
            # Without it an interrupted run would first work through all that was queued.
            pool.shutdown(cancel_futures=True)


def _clip(source: SourceClip, job: ClipJob, record: ClipRecord) -> Clip:
    return Clip(
        id=source.id,
        text=source.text,
        split=source.split,
        seconds=record.seconds,
        audio=job.audio if record.has_audio else None,
        video=job.video if record.frames else None,
        num_frames=record.frames,
        speaker=source.speaker,
        words=source.words,
        quality=record.quality,
    )


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
