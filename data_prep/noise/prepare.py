"""Prepare a noise corpus: every recording to 16 kHz mono WAV, in parallel and resumable, then one manifest."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_prep.noise.source import SourceNoise
from data_prep.noise.store import MANIFEST_NAME, audio_path, stored_clip
from data_prep.parallel import run_jobs
from data_prep.rejection import Problem, ProblemError, Reason, Rejection, write_rejections
from data_prep.shards import REJECTED_NAME
from omni_avsr.data.noise import SILENCE_POWER
from omni_avsr.data.noise_manifest import SPLITS, NoiseClip, write_noise_manifest
from omni_avsr.files import write_atomically
from omni_avsr.media import MediaError, read_audio, write_audio

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NoiseReport:
    """The manifest, its recordings and the rejected ones, both sorted by id."""

    manifest: Path
    clips: tuple[NoiseClip, ...]
    rejections: tuple[Rejection, ...]


def prepare_noise(
    sources: Sequence[SourceNoise], output: Path, workers: int = 1, progress: bool = True, time_limit: float = 600.0
) -> NoiseReport:
    """Write ``output``/audio/<id>.wav, noise.jsonl and rejected.jsonl.

    A recording that was written before, from the same file, is not written again. One that cannot be read, is silent,
    or sounds the same as another one is listed with its reason, and the others go on. The manifest depends on the
    sources alone.

    Args:
        workers: processes.
        time_limit: seconds for one recording, after which it is given up.

    Raises:
        ValueError: there is no recording, or not one could be prepared.
    """
    if not sources:
        raise ValueError("there are no recordings to prepare")
    problems: list[tuple[SourceNoise, Problem]] = []
    jobs: dict[str, SourceNoise] = {}
    for source in sorted(sources, key=lambda source: (source.id, str(source.media))):
        if not source.id.isprintable():
            problems.append(
                (source, Problem(Reason.BAD_NAME, f"{source.id!r} holds characters that cannot be written"))
            )
        elif source.id in jobs:
            both = f"{source.media} and {jobs[source.id].media} would both become {source.id!r}"
            problems.append((source, Problem(Reason.DUPLICATE, both)))
        else:
            jobs[source.id] = source
    clips: dict[str, NoiseClip] = {}
    convert = partial(_convert, output)
    for source, result in run_jobs(convert, list(jobs.values()), workers, progress=progress, time_limit=time_limit):
        if isinstance(result, Problem):
            problems.append((source, result))
        else:
            clips[source.id] = result
    owners: dict[str, NoiseClip] = {}
    for id in sorted(clips):
        if (first := owners.setdefault(clips[id].sha256, clips[id])).id != id:
            problems.append((jobs[id], Problem(Reason.DUPLICATE, f"{jobs[id].media}: sounds the same as {first.id}")))
    if not owners:
        raise ValueError(f"none of {len(sources)} recordings could be prepared, such as: {problems[0][1].detail}")
    rejections = sorted((Rejection(s.id, str(s.media), p.reason, p.detail) for s, p in problems), key=lambda r: r.id)
    write_rejections(output / REJECTED_NAME, rejections)
    report = NoiseReport(output / MANIFEST_NAME, tuple(owners.values()), tuple(rejections))
    write_noise_manifest(report.manifest, report.clips)
    counts = Counter(clip.split for clip in report.clips)
    logger.info("%s: %s", ", ".join(f"{counts[split]} {split}" for split in SPLITS), report.manifest)
    if missing := [split for split in SPLITS if not counts[split]]:
        logger.warning(
            "no recording is of split %s; subfolders named train, validation and test choose (noise folder)",
            " or ".join(missing),
        )
    if rejections:
        logger.warning("%d recordings were rejected: %s", len(rejections), output / REJECTED_NAME)
    return report


def _convert(output: Path, source: SourceNoise) -> NoiseClip:
    """ProblemError where the recording cannot be used. Runs in a worker."""
    target = audio_path(output, source.id)
    record = output / "done" / f"{source.id}.json"
    if not source.media.is_file():
        raise ProblemError(Reason.MISSING_FILE, f"{source.media}: no such file")
    status = source.media.stat()
    origin = json.dumps([str(source.media.resolve()), status.st_size, int(status.st_mtime)])
    if not (target.is_file() and record.is_file() and record.read_text(encoding="utf-8") == origin):
        record.unlink(missing_ok=True)
        try:
            samples = read_audio(source.media)
        except MediaError as error:
            raise ProblemError(Reason.CORRUPT, str(error)) from error
        if np.square(samples, dtype=np.float64).mean() < SILENCE_POWER:
            raise ProblemError(Reason.NO_AUDIO, f"{source.media}: it is silent")
        write_audio(target, samples)
        write_atomically(record, origin)
    return stored_clip(output, source.id, source.split, source.kind)
