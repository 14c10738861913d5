"""Real clips through the preparation: how many times faster than real time, and where the time goes."""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.cases import PreparationCase
from benchmarks.measure import ROOT, Stopwatch, peak_memory_mib, read_case, write_figures
from data_prep.clip import SAMPLES_PER_FRAME, fit_length, prepare_clip
from data_prep.clip_record import ClipJob, ClipRecord, ClipSettings
from data_prep.corpora.grid import read_grid
from data_prep.parallel import run_jobs
from omni_avsr.media import FRAME_RATE, iter_video, read_audio, write_audio, write_video
from omni_avsr.mouth.crops import crop_transforms, mouth_crops
from omni_avsr.mouth.face_model import find_face_model
from omni_avsr.mouth.video import FaceFinder, find_face

NUM_TIMED = 10
"""Clips whose parts are timed."""


def measure(case: PreparationCase) -> dict[str, float]:
    """The figures of one case. ValueError if a clip is rejected, or there are too few."""
    num_clips = case.num_warmups + case.num_clips
    media = [clip.media for clip in read_grid(ROOT / case.folder)][:num_clips]
    if len(media) < num_clips:
        raise ValueError(f"{case.folder} has {len(media)} clips, {num_clips} are needed")
    settings = ClipSettings(find_face_model(), FaceFinder(case.finder))
    cores = sorted(os.sched_getaffinity(0))[: case.num_workers]
    if len(cores) < case.num_workers:
        raise ValueError(f"{case.num_workers} processes need as many cores, this machine has {len(cores)}")
    os.sched_setaffinity(0, cores)
    with tempfile.TemporaryDirectory() as folder:
        speed = _speed(case, media, settings, Path(folder))
        os.sched_setaffinity(0, cores[:1])
        parts = _parts(media[:NUM_TIMED], settings, Path(folder))
    return speed | parts | {"peak_memory_mib": peak_memory_mib()}


def _speed(case: PreparationCase, media: list[Path], settings: ClipSettings, folder: Path) -> dict[str, float]:
    jobs = [ClipJob(str(number), file, folder, folder / "scratch", settings) for number, file in enumerate(media)]
    seconds, begun = 0.0, 0.0
    for number, (job, record) in enumerate(run_jobs(prepare_clip, jobs, case.num_workers, progress=False)):
        if not isinstance(record, ClipRecord):
            raise ValueError(f"{job.media}: {record}")
        if number >= case.num_warmups:
            seconds += record.seconds
        elif number == case.num_warmups - 1:
            begun = time.perf_counter()
    took = time.perf_counter() - begun
    return {
        "media_seconds": seconds,
        "total_seconds": took,
        "times_real_time": seconds / took,
        "clips_per_second": case.num_clips / took,
    }


def _parts(media: list[Path], settings: ClipSettings, folder: Path) -> dict[str, float]:
    """Mean seconds of each part of a clip's preparation, one after another in this process."""
    assert settings.face_model is not None
    totals: dict[str, float] = defaultdict(float)
    for file in media:
        watch = Stopwatch()
        for _ in iter_video(file, every=settings.finder.stride):
            pass
        watch.lap("search_decode")
        track, _ = find_face(file, settings.face_model, settings.finder)
        watch.lap("search")
        frames = list(iter_video(file, grey=True))
        watch.lap("crop_decode")
        crops = mouth_crops(frames, crop_transforms(track, settings.finder.geometry))
        watch.lap("crop")
        write_video(folder / "video.mp4", crops, FRAME_RATE, lossless=settings.lossless, crf=settings.crf)
        watch.lap("video_encode")
        write_audio(folder / "audio.flac", fit_length(read_audio(file), len(crops) * SAMPLES_PER_FRAME))
        watch.lap("audio")
        # Finding a face decodes too.
        watch.seconds["search"] -= watch.seconds["search_decode"]
        for part, seconds in watch.seconds.items():
            totals[part] += seconds
    return {f"{part}_seconds": total / len(media) for part, total in totals.items()}


if __name__ == "__main__":
    write_figures(measure(PreparationCase(**read_case())))
