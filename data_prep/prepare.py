"""Prepare a corpus: every source clip to mouth crops and audio, in parallel and resumable, then one manifest."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from data_prep.clip import ClipJob, ClipRecord, finished, prepare_clip
from data_prep.parallel import run_jobs
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
    unfinished = [job for id, job in jobs.items() if id not in records]
    for job, result in run_jobs(prepare_clip, unfinished, options.workers, num_finished_before, options.progress):
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
