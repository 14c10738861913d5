"""Prepare one clip: decode, crop the mouth, write video, audio and the record that says it is done.

It runs in worker processes and therefore imports neither torch nor the corpus readers.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from uuid import uuid4

import av.error
import numpy as np

from data_prep.clip_record import (
    ClipJob,
    ClipRecord,
    discard,
    limit_problem,
    write_problem,
    write_record,
)
from data_prep.rejection import Problem, ProblemError, Reason
from omni_avsr import archive
from omni_avsr.media import (
    FRAME_RATE,
    SAMPLE_RATE,
    MediaError,
    NoFaceError,
    TooLongError,
    duration,
    probe,
    read_audio,
    write_audio,
    write_video,
)
from omni_avsr.mouth.video import crop_video

SAMPLES_PER_FRAME = int(SAMPLE_RATE / FRAME_RATE)
HEADER_TOLERANCE = 1.0
"""Seconds by which a file's header may be wrong; a file that ends earlier was cut off."""

_BUSY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
_READ_SIZE = 1 << 20


def prepare_clip(job: ClipJob) -> ClipRecord | Problem:
    """Write the clip's mouth crops (25 fps) and its audio (16 kHz, exactly 640 samples a crop), then its record.

    A source without video gives audio alone and the other way round, unless the job needs both. A problem that lies
    in the file is recorded too, so that no later run finds it out again; nothing else of such a clip is left. One that
    lies in the machine is not, and the next run tries again.
    """
    scratch = job.scratch / uuid4().hex
    try:
        return _prepare(job, scratch)
    except ProblemError as error:
        return _reject(job, error.problem)
    except NoFaceError as error:
        return _reject(job, Problem(Reason.NO_FACE, str(error)))
    except TooLongError as error:
        return _reject(job, Problem(Reason.TOO_LARGE, f"{error} (max_seconds)"))
    except MediaError as error:
        reason = Reason.FAILED if _is_passing(error, job) else Reason.CORRUPT
        return _reject(job, Problem(reason, str(error)))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def fit_length(waveform: np.ndarray, length: int) -> np.ndarray:
    """``waveform`` [samples] cut at the end, or padded there with silence, to ``length`` samples."""
    return np.pad(waveform[:length], (0, max(0, length - len(waveform))))


def _prepare(job: ClipJob, scratch: Path) -> ClipRecord:
    sound = job.audio or job.media
    settings = job.settings
    for file in {job.media, sound}:
        _check_size(file, settings.max_megabytes)
    has_audio, has_video = probe(sound)[0], probe(job.media)[1]
    if job.needs_audio and not has_audio:
        raise ProblemError(Reason.NO_AUDIO, f"{sound}: the file has no audio stream")
    if job.needs_video and not has_video:
        raise ProblemError(Reason.NO_VIDEO, f"{job.media}: the file has no video stream")
    if job.span is None and (told := max(duration(job.media), duration(sound))) > settings.max_seconds:
        detail = f"{job.media}: {told:.0f} s, a clip may have {settings.max_seconds:g} (max_seconds)"
        raise ProblemError(Reason.TOO_LARGE, detail)
    crops, measures = _crops(job) if has_video else (None, {})
    waveform = read_audio(sound, job.span, settings.max_seconds) if has_audio else None
    seconds = _check_ends(job, crops, waveform)
    moves = []
    if crops is not None:
        write_video(scratch / "video.mp4", crops, FRAME_RATE, lossless=settings.lossless, crf=settings.crf)
        moves.append((scratch / "video.mp4", job.video_file))
    if waveform is not None:
        fitted = waveform if crops is None else fit_length(waveform, len(crops) * SAMPLES_PER_FRAME)
        write_audio(scratch / "audio.flac", fitted)
        moves.append((scratch / "audio.flac", job.audio_file))
    record = ClipRecord(0 if crops is None else len(crops), seconds, has_audio, measures)
    if problem := limit_problem(job, record):
        raise ProblemError(problem.reason, problem.detail)
    # Without its record the clip is unfinished: an old one must not speak for new files.
    discard(job)
    for finished, place in moves:
        place.parent.mkdir(parents=True, exist_ok=True)
        finished.replace(place)
    write_record(job, record)
    return record


def _crops(job: ClipJob) -> tuple[np.ndarray, dict[str, float]]:
    settings = job.settings
    if settings.face_model is None:
        raise ValueError(f"{job.media}: has video, but no face model was given")
    return crop_video(
        job.media,
        settings.face_model,
        finder=settings.finder,
        span=job.span,
        grey=settings.grey,
        max_seconds=settings.max_seconds,
    )


def _check_ends(job: ClipJob, crops: np.ndarray | None, waveform: np.ndarray | None) -> float:
    """The clip's length in seconds. ProblemError if sound and pictures do not end together, or too early."""
    seen = len(crops) / FRAME_RATE if crops is not None else 0.0
    heard = len(waveform) / SAMPLE_RATE if waveform is not None else 0.0
    if crops is not None and waveform is not None and abs(heard - seen) > job.settings.max_uneven:
        detail = f"{job.media}: {heard:.1f} s of sound and {seen:.1f} s of pictures differ by more than max_uneven"
        raise ProblemError(Reason.UNEVEN, detail)
    seconds = heard if crops is None else seen
    if job.last_word is not None and seconds <= job.last_word:
        detail = f"{job.media}: ends after {seconds:.1f} s, before its last word at {job.last_word:.1f} s"
        raise ProblemError(Reason.CUT_OFF, detail)
    ends = {job.media: max(seen, heard)} if job.audio is None else {job.media: seen, job.audio: heard}
    for file, end in ends.items() if job.span is None else ():
        if duration(file) - end > HEADER_TOLERANCE:
            detail = f"{file}: ends after {end:.1f} s, of {duration(file):.1f} s by its header"
            raise ProblemError(Reason.CUT_OFF, detail)
    return seconds


def _reject(job: ClipJob, problem: Problem) -> Problem:
    discard(job)
    if problem.reason not in (Reason.MISSING_FILE, Reason.FAILED):
        write_problem(job, problem)
    return problem


def _check_size(file: Path, max_megabytes: float) -> None:
    if not archive.is_file(file):
        raise ProblemError(Reason.MISSING_FILE, f"{file}: no such file")
    megabytes = archive.size(file) / 1e6
    if megabytes > max_megabytes:
        detail = f"{file}: {megabytes:.0f} MB, at most {max_megabytes:.0f} are read (max_megabytes)"
        raise ProblemError(Reason.TOO_LARGE, detail)


def _is_passing(error: MediaError, job: ClipJob) -> bool:
    """Whether the machine and not the file is to blame: it has run short of something, or cannot read its disk."""
    cause = error.__cause__
    if isinstance(cause, OSError | av.error.FFmpegError) and cause.errno in _BUSY:
        return True
    try:
        for file in (job.media, job.audio):
            if file is not None:
                with archive.open_file(file) as stream:
                    while stream.read(_READ_SIZE):
                        pass
    except OSError:
        return True
    return False
