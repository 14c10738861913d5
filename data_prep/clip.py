"""Prepare one clip: decode, crop the mouth, write video, audio and the record that says it is done.

It runs in worker processes and therefore imports neither torch nor the corpus readers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omni_avsr.files import write_atomically
from omni_avsr.media import FRAME_RATE, SAMPLE_RATE, probe, read_audio, write_audio, write_video
from omni_avsr.mouth.video import crop_video

SAMPLES_PER_FRAME = int(SAMPLE_RATE / FRAME_RATE)
# Raise it whenever the same source would give other pixels or samples: finished clips are then made anew.
RECIPE_VERSION = 1


@dataclass(frozen=True)
class ClipJob:
    """One clip to prepare. Files go to ``output``/{video,audio,done}/``id``; lossless and crf: see write_video."""

    id: str
    media: Path
    output: Path
    face_model: Path | None
    lossless: bool
    crf: int

    @property
    def video(self) -> Path:
        return self.output / "video" / f"{self.id}.mp4"

    @property
    def audio(self) -> Path:
        return self.output / "audio" / f"{self.id}.flac"

    @property
    def record(self) -> Path:
        return self.output / "done" / f"{self.id}.json"


@dataclass(frozen=True)
class ClipRecord:
    """What a finished clip's record file holds: the facts that only the media give, not the transcript.

    frames: number of mouth crops, 0 without video. source: what it was made from and how, to notice a change.
    """

    frames: int
    seconds: float
    has_audio: bool
    quality: dict[str, float]
    source: dict[str, Any]


def finished(job: ClipJob) -> ClipRecord | None:
    """The record of a clip that is done and up to date, or None.

    The record is written after the media, and all of them atomically, so a run killed at any moment leaves either a
    finished clip or one that is made again.
    """
    try:
        record = ClipRecord(**json.loads(job.record.read_text(encoding="utf-8")))
        complete = (not record.frames or job.video.is_file()) and (not record.has_audio or job.audio.is_file())
        return record if complete and record.source == _fingerprint(job) else None
    except (OSError, ValueError, TypeError):
        return None


def prepare_clip(job: ClipJob) -> ClipRecord:
    """Write the clip's mouth crops (25 fps) and its audio (16 kHz, exactly 640 samples a crop), then its record.

    A source without video gives audio alone and the other way round. ValueError or MediaError names the file.
    """
    has_audio, has_video = probe(job.media)
    frames = samples = 0
    measures: dict[str, float] = {}
    if has_video:
        if job.face_model is None:
            raise ValueError(f"{job.media}: has video, but no face model was given")
        crops, measures = crop_video(job.media, job.face_model)
        frames = len(crops)
        write_video(job.video, crops, FRAME_RATE, lossless=job.lossless, crf=job.crf)
    if has_audio:
        waveform = read_audio(job.media)
        if has_video:
            waveform = fit_length(waveform, frames * SAMPLES_PER_FRAME)
        samples = len(waveform)
        write_audio(job.audio, waveform)
    seconds = frames / FRAME_RATE if frames else samples / SAMPLE_RATE
    record = ClipRecord(frames, seconds, has_audio, measures, _fingerprint(job))
    write_atomically(job.record, json.dumps(vars(record)) + "\n")
    return record


def fit_length(waveform: np.ndarray, length: int) -> np.ndarray:
    """``waveform`` [samples] cut at the end, or padded there with silence, to ``length`` samples."""
    return np.pad(waveform[:length], (0, max(0, length - len(waveform))))


def _fingerprint(job: ClipJob) -> dict[str, Any]:
    status = job.media.stat()
    coding = "lossless" if job.lossless else f"crf {job.crf}"
    return {"name": job.media.name, "bytes": status.st_size, "recipe": RECIPE_VERSION, "coding": coding}
