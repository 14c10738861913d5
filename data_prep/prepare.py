"""Prepare a corpus: every source clip to mouth crops and audio, in parallel and resumable, then one manifest."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from data_prep.checks import find_problems
from data_prep.clip import prepare_clip
from data_prep.clip_record import ClipJob, ClipRecord, ClipSettings, discard, outcome
from data_prep.corpora.source import SourceClip
from data_prep.parallel import run_jobs
from data_prep.quality.markup import plain
from data_prep.quality.page import write_quality_page
from data_prep.rejection import PASSING, Problem, Reason, Rejection
from data_prep.shards import MANIFEST_NAME, Corpus, Shard, write_shard
from data_prep.tars import member_key, pack, stored_media
from omni_avsr import archive
from omni_avsr.types import Clip

QUALITY_PAGE_NAME = "quality.html"
TARS_FOLDER = "tars"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareOptions:
    """How a corpus is prepared.

    workers: processes of one thread.
    shard: the part of the corpus that this run prepares.
    clips_per_tar: pack the media into tars of so many clips; None leaves them where they are: in files of their own, or
        in the tars of an earlier run.
    time_limit: seconds for one clip, after which it is given up.
    max_characters: a longer transcript is rejected.
    """

    clips: ClipSettings = field(default_factory=ClipSettings)
    workers: int = 1
    shard: Shard = field(default_factory=Shard)
    clips_per_tar: int | None = None
    time_limit: float = 300.0
    max_characters: int = 1000
    progress: bool = True


@dataclass(frozen=True)
class PrepareReport:
    """What a run did.

    page: the quality page; None for a shard.
    num_prepared: clips made now, of ``media_seconds`` together, in ``seconds`` of work.
    num_finished_before: clips that an earlier run had made.
    num_imported: clips that were crops already.
    num_tried: clips that a worker opened in this run, whatever came of it.
    rejections: of this run and of earlier ones, sorted by id.
    """

    manifest: Path
    page: Path | None
    num_prepared: int
    num_finished_before: int
    num_imported: int
    num_tried: int
    rejections: tuple[Rejection, ...]
    seconds: float
    media_seconds: float

    @property
    def num_clips(self) -> int:
        return self.num_prepared + self.num_finished_before + self.num_imported


def prepare(sources: Sequence[SourceClip], output: Path, options: PrepareOptions) -> PrepareReport:
    """Write ``output``/{video,audio}/<id>.{mp4,flac}, or tars of them, with manifest, rejections and quality page.

    Clips that an earlier run finished are skipped, and so are those it found unusable, unless their file or the
    settings have changed. A clip that cannot be used is logged and listed in rejected.jsonl, and the others go on;
    every source clip is in the manifest or among the rejected. The manifest is sorted by id and depends only on the
    sources and the settings. A shard writes its manifest below ``output``/shards, for ``merge_shards``.

    Raises:
        ValueError: there is nothing to prepare, an option makes no sense, or another run is at work on the same.
    """
    if not sources:
        raise ValueError("no clips to prepare")
    if options.workers < 1:
        raise ValueError(f"workers must be at least 1, got {options.workers}")
    sources = sorted(sources, key=lambda source: source.id)
    with _scratch_folder(output, options.shard) as scratch:
        return _prepare(sources, output, scratch, options)


def _prepare(sources: Sequence[SourceClip], output: Path, scratch: Path, options: PrepareOptions) -> PrepareReport:
    begun = time.monotonic()
    shard = options.shard
    problems = find_problems(sources, options.max_characters)
    part = range(shard.index, len(sources), shard.count)
    rejected = {place: problem for place in part if (problem := problems[place]) is not None}
    good = {sources[place].id: place for place in part if place not in rejected}
    jobs = {
        id: _job(sources[place], output, scratch, options) for id, place in good.items() if not _is_crop(sources[place])
    }
    packed = stored_media(output / TARS_FOLDER)
    known = {id: result for id, job in jobs.items() if (result := _finished(job, packed)) is not None}
    known_problems = {good[id]: result for id, result in known.items() if isinstance(result, Problem)}
    for place, problem in sorted((rejected | known_problems).items()):
        _log(sources[place].id, problem)
    todo = [job for id, job in jobs.items() if id not in known]
    new = _work(todo, len(known), options)

    clips = []
    results = known | new
    for id, place in good.items():
        made = _imported(sources[place]) if id not in jobs else _clip(sources[place], jobs[id], results[id], packed)
        if isinstance(made, Problem):
            rejected[place] = made
        else:
            clips.append(made)
    if options.clips_per_tar is not None:
        places = {sources[place].id: number // options.clips_per_tar for number, place in enumerate(part)}
        own = {file for job in jobs.values() for file in (job.audio_file, job.video_file)}
        clips = pack(clips, places, own, output / TARS_FOLDER, shard.tar_prefix, scratch)
    rejections = tuple(_rejection(sources[place], rejected[place]) for place in sorted(rejected))
    write_shard(output, shard, Corpus.of(sources, options.clips), clips, rejections)
    page = None
    if shard.count == 1:
        page = output / QUALITY_PAGE_NAME
        # Crops that came from elsewhere are not to be trusted any more than other media.
        time_limit = options.time_limit if any(map(_is_crop, sources)) else None
        write_quality_page(page, clips, rejections, output.resolve().name, time_limit=time_limit)
    made_now = [result for result in new.values() if isinstance(result, ClipRecord)]
    num_imported = sum(clip.id not in jobs for clip in clips)
    return PrepareReport(
        manifest=shard.folder(output) / MANIFEST_NAME,
        page=page,
        num_prepared=len(made_now),
        num_finished_before=len(clips) - num_imported - len(made_now),
        num_imported=num_imported,
        num_tried=len(todo),
        rejections=rejections,
        seconds=time.monotonic() - begun,
        media_seconds=sum(record.seconds for record in made_now),
    )


def _work(todo: Sequence[ClipJob], num_done: int, options: PrepareOptions) -> dict[str, ClipRecord | Problem]:
    """What came of each job, by the clip's id."""
    results: dict[str, ClipRecord | Problem] = {}
    for job, result in run_jobs(prepare_clip, todo, options.workers, num_done, options.progress, options.time_limit):
        results[job.id] = result
        if isinstance(result, Problem):
            _log(job.id, result)
            if result.reason in PASSING:  # its worker could not clear up after itself
                discard(job)
    return results


@contextmanager
def _scratch_folder(output: Path, shard: Shard) -> Iterator[Path]:
    """Where the shard's unfinished files are: apart from finished ones, and from those of shards that run beside it.

    It begins and ends empty: a killed run leaves its half files here, and only here. ValueError if another run has it.
    """
    folder = output / "scratch" / shard.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{output}: another run is preparing the same (it holds {lock.lock_file})") from error
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # other shards may be at work beside it
            folder.parent.rmdir()


def _is_crop(source: SourceClip) -> bool:
    return source.cropped_frames is not None


def _job(source: SourceClip, output: Path, scratch: Path, options: PrepareOptions) -> ClipJob:
    return ClipJob(
        id=source.id,
        media=source.media,
        output=output,
        scratch=scratch,
        settings=options.clips,
        audio=source.audio,
        span=source.span,
        needs_audio=source.needs_audio,
        needs_video=source.needs_video,
        last_word=source.words[-1].start if source.words else None,
    )


def _finished(job: ClipJob, packed: Mapping[str, Path]) -> ClipRecord | Problem | None:
    """What an earlier run made of the clip, if its media are still there; a missing source needs no worker either."""
    if missing := next((file for file in (job.media, job.audio) if file and not archive.is_file(file)), None):
        return Problem(Reason.MISSING_FILE, f"{missing}: no such file")
    result = outcome(job)
    if not isinstance(result, ClipRecord):
        return result
    audio_is_there = not result.has_audio or _place(job, job.audio_file, packed) is not None
    video_is_there = not result.frames or _place(job, job.video_file, packed) is not None
    return result if audio_is_there and video_is_there else None


def _place(job: ClipJob, file: Path, packed: Mapping[str, Path]) -> Path | None:
    """Where a clip's file is: in its own place, or in a tar."""
    return file if file.is_file() else packed.get(f"{member_key(job.id)}{file.suffix}")


def _clip(source: SourceClip, job: ClipJob, result: ClipRecord | Problem, packed: Mapping[str, Path]) -> Clip | Problem:
    if isinstance(result, Problem):
        return result
    return Clip(
        id=source.id,
        text=source.text,
        split=source.split,
        seconds=result.seconds,
        audio=_place(job, job.audio_file, packed) if result.has_audio else None,
        video=_place(job, job.video_file, packed) if result.frames else None,
        num_frames=result.frames,
        speaker=source.speaker,
        words=source.words,
        quality={**source.quality, **result.quality},
    )


def _imported(source: SourceClip) -> Clip | Problem:
    """A clip that was cropped elsewhere: its files stay where they are."""
    if not source.media.is_file():
        return Problem(Reason.MISSING_FILE, f"{source.media}: no such file")
    if not source.cropped_frames or not source.seconds:
        return Problem(Reason.BAD_LABEL, f"{source.media}: has no frames, by its labels")
    return Clip(
        id=source.id,
        text=source.text,
        split=source.split,
        seconds=source.seconds,
        audio=source.audio,
        video=source.media,
        num_frames=source.cropped_frames,
        speaker=source.speaker,
        words=source.words,
    )


def _rejection(source: SourceClip, problem: Problem) -> Rejection:
    return Rejection(source.id, str(source.media), problem.reason, problem.detail)


def _log(id: str, problem: Problem) -> None:
    # A name may hold bytes that are no text, and signs that a terminal obeys.
    logger.warning("%s", plain(f"clip {id}: {problem.detail}", 2000))
