"""Hundreds of damaged media files: each is prepared or rejected with a reason, and no stray file appears."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers_media import write_clip

from data_prep.clip_record import ClipSettings
from data_prep.corpora.source import SourceClip
from data_prep.prepare import PrepareOptions, prepare
from data_prep.rejection import Reason
from omni_avsr.data.manifest import read_manifest
from omni_avsr.media import read_audio, read_video, write_audio
from omni_avsr.mouth.video import FaceFinder

NUM_FILES = 350
NAMES = (
    "plain",
    "two words",
    "ümläut",
    "深い",
    "a'b",
    'quo"te',
    "per%cent",
    "tab\tbed",
    "emoji😀",
    "a.b.c",
    "-dash",
    "CON",
)
SUFFIXES = (".mp4", ".mkv", ".mpg", ".flac", ".wav", ".txt", "")


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """The file cut short, with flipped bits, a hole, a doubled piece, another head or tail, or nothing left at all."""
    size = len(data)
    at, length = int(random.integers(size)), int(random.integers(1, 200))
    match int(random.integers(8)):
        case 0:
            return data[:at]
        case 1:
            return data[at:]
        case 2:
            return b""
        case 3:
            return data[:at] + data[at + length :]
        case 4:
            return data[: at + length] + data[at:]
        case 5:
            return random.bytes(min(at, 64)) + data[min(at, 64) :]
        case 6:
            return data + random.bytes(length)
    changed = np.frombuffer(data, np.uint8).copy()
    places = random.integers(size, size=int(random.choice([1, 4, 32, 256])))
    changed[places] ^= np.uint8(1) << random.integers(8, size=len(places)).astype(np.uint8)
    return changed.tobytes()


@pytest.mark.slow
def test_damaged_files_cost_nothing_but_themselves(shared: Path, tmp_path: Path) -> None:
    seeds, source, output = tmp_path / "seeds", tmp_path / "in", tmp_path / "out"
    for folder in (seeds, source):
        folder.mkdir()
    frames = read_video(shared / "data" / "grid_unseen" / "s4_lwbsza.mp4")[:6, 20:-20, 20:-20]
    noise = np.random.default_rng(0).uniform(-0.03, 0.03, len(frames) * 640)
    for suffix, codecs in (
        (".mp4", ("libx264", "aac")),
        (".mkv", ("libx264", "pcm_s16le")),
        (".mpg", ("mpeg1video", "mp2")),
    ):
        write_clip(seeds / f"seed{suffix}", frames, noise, codecs)
    for suffix in (".flac", ".wav"):
        write_audio(seeds / f"seed{suffix}", np.random.default_rng(1).uniform(-0.5, 0.5, 4000).astype(np.float32))
    originals = sorted(seeds.iterdir())
    random = np.random.default_rng(2)
    sources = []
    for number in range(NUM_FILES):
        original = originals[number % len(originals)]
        kept = random.random() < 0.7
        suffix = original.suffix if kept else str(random.choice(SUFFIXES))
        name = f"{NAMES[int(random.integers(len(NAMES)))]}-{number}"
        data = original.read_bytes()
        # The first ones are whole: a run that rejects everything would pass this test otherwise.
        (source / f"{name}{suffix}").write_bytes(data if number < len(originals) else damaged(data, random))
        sources.append(SourceClip(name, source / f"{name}{suffix}", f"text {number}", "test"))
    before = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in source.iterdir()}

    settings = ClipSettings(shared / "models" / "face_landmarker.task", FaceFinder.DETECTOR, max_seconds=30)
    report = prepare(sources, output, PrepareOptions(settings, workers=2, time_limit=60, progress=False))

    clips = read_manifest(report.manifest, check_files=True)
    reasons = Counter(rejection.reason for rejection in report.rejections)
    assert len(clips) + len(report.rejections) == NUM_FILES
    assert {clip.id for clip in clips}.isdisjoint(rejection.id for rejection in report.rejections)
    assert len(clips) >= len(originals) - 1
    assert reasons[Reason.CORRUPT] > NUM_FILES / 4
    assert not reasons[Reason.FAILED], [line for line in report.rejections if line.reason is Reason.FAILED]
    for clip in clips:
        assert clip.audio is not None
        samples = len(read_audio(clip.audio))
        assert samples == clip.num_frames * 640 or not clip.num_frames
        if clip.video is not None:
            assert read_video(clip.video, grey=True).shape == (clip.num_frames, 96, 96)
    expected = {f"audio/{clip.id}.flac" for clip in clips} | {f"video/{c.id}.mp4" for c in clips if c.video is not None}
    expected |= {"manifest.jsonl", "rejected.jsonl", "quality.html"}
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert {file for file in files if not file.startswith("done/")} == expected
    assert {path.name: hashlib.sha256(path.read_bytes()).digest() for path in source.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"seeds", "in", "out"}
