"""What is known of a clip: the job of preparing it, and the record that says what came of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_prep.rejection import Problem, Reason
from omni_avsr import archive
from omni_avsr.files import write_atomically
from omni_avsr.media import Span
from omni_avsr.mouth.video import FaceFinder

# Raise it whenever the same source would give other pixels or samples: finished clips are then made anew.
RECIPE_VERSION = 3


@dataclass(frozen=True)
class ClipSettings:
    """How clips are made, and what is refused.

    face_model: MediaPipe's face_landmarker.task; None will do for audio alone.
    grey: mouth crops of one channel; otherwise of three.
    lossless: keep every pixel of the crops; otherwise x264 at ``crf``.
    min_detected: a clip is rejected if a smaller share of its frames shows the face.
    max_seconds, max_megabytes: a clip that is longer, or whose file is larger, is rejected.
    max_uneven: seconds by which sound and pictures may differ in length; the sound is then fitted to the pictures.
    """

    face_model: Path | None = None
    finder: FaceFinder = FaceFinder.LANDMARKER
    grey: bool = True
    lossless: bool = True
    crf: int = 12
    min_detected: float = 0.5
    max_seconds: float = 600.0
    max_megabytes: float = 4000.0
    max_uneven: float = 1.0


@dataclass(frozen=True)
class ClipJob:
    """One clip to prepare. Files go to ``output``/{video,audio,done}/``id``, by way of ``scratch``.

    audio, span, needs_audio, needs_video: as in ``SourceClip``. last_word: when the last word begins, in seconds.
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
    last_word: float | None = None

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

    Limits are applied anew: a clip that passed by others may be rejected now, and one that failed by others is to be
    tried again. Where the media of a finished clip are is not looked at.
    """
    try:
        record = json.loads(job.record.read_text(encoding="utf-8"))
        if record["fingerprint"] != _fingerprint(job):
            return None
        if "problem" not in record:
            clip = ClipRecord(**record["clip"])
            return limit_problem(job, clip) or clip
        if record["limits"] != _limits(job):
            return None
        return Problem(Reason(record["problem"]["reason"]), record["problem"]["detail"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_record(job: ClipJob, record: ClipRecord) -> None:
    """Say that the clip is done. To be called when its media are in place."""
    _write(job, {"fingerprint": _fingerprint(job), "clip": asdict(record)})


def write_problem(job: ClipJob, problem: Problem) -> None:
    """Say that the clip cannot be used."""
    _write(job, {"fingerprint": _fingerprint(job), "limits": _limits(job), "problem": asdict(problem)})


def discard(job: ClipJob) -> None:
    """Remove what there is of the clip, its record first."""
    for file in (job.record, job.video_file, job.audio_file):
        file.unlink(missing_ok=True)


def limit_problem(job: ClipJob, record: ClipRecord) -> Problem | None:
    """What keeps a clip that was made from being used."""
    settings = job.settings
    if record.seconds > settings.max_seconds:
        detail = f"{job.media}: {record.seconds:.0f} s, a clip may have {settings.max_seconds:g} (max_seconds)"
        return Problem(Reason.TOO_LARGE, detail)
    detected = record.quality.get("detected", 1.0)
    if detected < settings.min_detected:
        shown = f"{detected:.0%} of its frames show the face, at least {settings.min_detected:.0%} must (min_detected)"
        return Problem(Reason.FEW_FACES, f"{job.media}: {shown}")
    return None


def _write(job: ClipJob, record: dict[str, Any]) -> None:
    draft = job.scratch / "records" / f"{job.id}.json"
    write_atomically(draft, json.dumps(record) + "\n")
    job.record.parent.mkdir(parents=True, exist_ok=True)
    draft.replace(job.record)


def _fingerprint(job: ClipJob) -> dict[str, Any]:
    """What decides the clip's pixels and samples. OSError if a file is missing."""
    settings = job.settings
    facts = {
        "recipe": RECIPE_VERSION,
        "files": [_file_facts(file) for file in (job.media, job.audio) if file is not None],
        "span": job.span,
        "needs": [job.needs_audio, job.needs_video],
        "coding": "lossless" if settings.lossless else f"crf {settings.crf}",
        "grey": settings.grey,
        "finder": settings.finder,
        "face_model": settings.face_model and _sha256(settings.face_model, settings.face_model.stat().st_mtime_ns),
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def _file_facts(file: Path) -> list[str | int]:
    # Whole seconds: not every file system that a corpus is copied to keeps finer ones.
    return [file.name, archive.size(file), int(archive.stored_in(file).stat().st_mtime)]


def _limits(job: ClipJob) -> list[float | None]:
    settings = job.settings
    return [
        settings.min_detected, settings.max_seconds, settings.max_megabytes, settings.max_uneven, job.last_word
    ]  # fmt: skip


@lru_cache(maxsize=4)
def _sha256(file: Path, mtime_ns: int) -> str:
    """A model is read once; the time in the key notices another one in its place."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
