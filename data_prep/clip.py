"""Prepare one clip: decode, crop the mouth, write video, audio and the record that says it is done.

It runs in worker processes and therefore imports neither torch nor the corpus readers.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from data_prep.rejection import Problem, ProblemError, Reason
from omni_avsr import archive
from omni_avsr.files import write_atomically
from omni_avsr.media import (
    FRAME_RATE,
    SAMPLE_RATE,
    MediaError,
    NoFaceError,
    Span,
    duration,
    probe,
    read_audio,
    write_audio,
    write_video,
)
from omni_avsr.mouth.video import FaceFinder, crop_video

SAMPLES_PER_FRAME = int(SAMPLE_RATE / FRAME_RATE)
# Raise it whenever the same source would give other pixels or samples: finished clips are then made anew.
RECIPE_VERSION = 2


@dataclass(frozen=True)
class ClipSettings:
    """How clips are made, and what is refused.

    face_model: MediaPipe's face_landmarker.task; None will do for audio alone.
    grey: mouth crops of one channel; otherwise of three.
    lossless: keep every pixel of the crops; otherwise x264 at ``crf``.
    min_detected: a clip is rejected if a smaller share of its frames shows the face.
    max_seconds, max_megabytes: a clip that is longer, or whose file is larger, is rejected.
    """

    face_model: Path | None = None
    finder: FaceFinder = FaceFinder.LANDMARKER
    grey: bool = True
    lossless: bool = True
    crf: int = 12
    min_detected: float = 0.5
    max_seconds: float = 600.0
    max_megabytes: float = 4000.0


@dataclass(frozen=True)
class ClipJob:
    """One clip to prepare. Files go to ``output``/{video,audio,done}/``id``, by way of ``scratch``.

    audio, span, needs_audio, needs_video: as in ``SourceClip``.
    """

    id: str
    media: Path
    output: Path
    scratch: Path
    settings: ClipSettings
    audio: Path | None = None
    span: Span | None = None
    needs_audio: bool = True
    needs_video: bool = False

    @property
    def video_file(self) -> Path:
        return self.output / "video" / f"{self.id}.mp4"

    @property
    def audio_file(self) -> Path:
        return self.output / "audio" / f"{self.id}.flac"

    @property
    def record(self) -> Path:
        return self.output / "done" / f"{self.id}.json"


@dataclass(frozen=True)
class ClipRecord:
    """What a clip's record file holds of a good clip: the facts that only the media give, not the transcript.

    frames: number of mouth crops, 0 without video.
    """

    frames: int
    seconds: float
    has_audio: bool
    quality: dict[str, float]


def outcome(job: ClipJob) -> ClipRecord | Problem | None:
    """What an earlier run made of the clip, or None: nothing yet, or from another file or other settings.

    The record is written after the media, so a run killed at any moment leaves either a finished clip or one that is
    made again. Where the media of a finished clip are is not looked at.
    """
    try:
        record = json.loads(job.record.read_text(encoding="utf-8"))
        if record["fingerprint"] != fingerprint(job):
            return None
        if "problem" in record:
            return Problem(Reason(record["problem"]["reason"]), record["problem"]["detail"])
        return ClipRecord(**record["clip"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def prepare_clip(job: ClipJob) -> ClipRecord | Problem:
    """Write the clip's mouth crops (25 fps) and its audio (16 kHz, exactly 640 samples a crop), then its record.

    A source without video gives audio alone and the other way round, unless the job needs both. A problem that lies
    in the file is recorded too, so that no later run finds it out again; nothing else of such a clip is left.
    """
    scratch = job.scratch / uuid4().hex
    try:
        record = _prepare(job, scratch)
    except ProblemError as error:
        return _rejected(job, error.problem)
    except NoFaceError as error:
        return _rejected(job, Problem(Reason.NO_FACE, str(error)))
    except MediaError as error:
        return _rejected(job, Problem(Reason.CORRUPT, str(error)))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return record


def fit_length(waveform: np.ndarray, length: int) -> np.ndarray:
    """``waveform`` [samples] cut at the end, or padded there with silence, to ``length`` samples."""
    return np.pad(waveform[:length], (0, max(0, length - len(waveform))))


def fingerprint(job: ClipJob) -> dict[str, Any]:
    """What the clip is made from and how, to notice a change. OSError if a file is missing."""
    settings = asdict(job.settings)
    del settings["face_model"]
    files = [(file.name, archive.stored_in(file).stat().st_size) for file in (job.media, job.audio) if file is not None]
    needs = [name for name, needed in (("audio", job.needs_audio), ("video", job.needs_video)) if needed]
    facts = {"recipe": RECIPE_VERSION, "files": files, "span": job.span, "needs": needs, **settings}
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


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
    seconds = job.span[1] - job.span[0] if job.span else max(duration(job.media), duration(sound))
    _check_seconds(job, seconds)
    frames = samples = 0
    measures: dict[str, float] = {}
    moves = []
    if has_video:
        if settings.face_model is None:
            raise ValueError(f"{job.media}: has video, but no face model was given")
        crops, measures = crop_video(
            job.media, settings.face_model, finder=settings.finder, span=job.span, grey=settings.grey
        )
        if measures["detected"] < settings.min_detected:
            shown = f"{measures['detected']:.0%} of its frames show the face, at least {settings.min_detected:.0%} must"
            raise ProblemError(Reason.FEW_FACES, f"{job.media}: {shown} (min_detected)")
        frames = len(crops)
        write_video(scratch / "video.mp4", crops, FRAME_RATE, lossless=settings.lossless, crf=settings.crf)
        moves.append((scratch / "video.mp4", job.video_file))
    if has_audio:
        waveform = read_audio(sound, job.span)
        if has_video:
            waveform = fit_length(waveform, frames * SAMPLES_PER_FRAME)
        samples = len(waveform)
        write_audio(scratch / "audio.flac", waveform)
        moves.append((scratch / "audio.flac", job.audio_file))
    seconds = frames / FRAME_RATE if frames else samples / SAMPLE_RATE
    _check_seconds(job, seconds)
    record = ClipRecord(frames, seconds, has_audio, measures)
    write_atomically(scratch / "record.json", json.dumps({"fingerprint": fingerprint(job), "clip": asdict(record)}))
    for finished, place in (*moves, (scratch / "record.json", job.record)):
        place.parent.mkdir(parents=True, exist_ok=True)
        finished.replace(place)
    return record


def _rejected(job: ClipJob, problem: Problem) -> Problem:
    for file in (job.video_file, job.audio_file, job.record):
        file.unlink(missing_ok=True)
    if problem.reason is not Reason.MISSING_FILE:
        write_atomically(job.record, json.dumps({"fingerprint": fingerprint(job), "problem": asdict(problem)}))
    return problem


def _check_size(file: Path, max_megabytes: float) -> None:
    if not archive.is_file(file):
        raise ProblemError(Reason.MISSING_FILE, f"{file}: no such file")
    megabytes = archive.stored_in(file).stat().st_size / 1e6
    if file.is_file() and megabytes > max_megabytes:
        detail = f"{file}: {megabytes:.0f} MB, at most {max_megabytes:.0f} are read (max_megabytes)"
        raise ProblemError(Reason.TOO_LARGE, detail)


def _check_seconds(job: ClipJob, seconds: float) -> None:
    if seconds > job.settings.max_seconds:
        detail = f"{job.media}: {seconds:.0f} s, a clip may have {job.settings.max_seconds:.0f} (max_seconds)"
        raise ProblemError(Reason.TOO_LARGE, detail)
