"""Transcribing real recordings with the checkpoint of experiment 001: GRID clips as they come, a minute of them without
a break, broken files, and word times against those of the corpus."""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import jiwer
import numpy as np
import pytest
from helpers_checkpoint import write_muxed

from data_prep.corpora.grid import read_grid
from data_prep.corpora.source import SourceClip
from omni_avsr.media import SAMPLE_RATE, read_audio, read_video

CHECKPOINT = Path(__file__).resolve().parents[1] / "experiments" / "001-grid-s1" / "checkpoint"
SAMPLES_PER_FRAME = SAMPLE_RATE // 25

pytestmark = pytest.mark.slow
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def clips(shared: Path) -> list[SourceClip]:
    """GRID's test clips of speaker s1, raw."""
    return [clip for clip in read_grid(shared / "data" / "grid") if clip.split == "test"]


@pytest.fixture
def call(real_models: None) -> Call:
    """The installed console script with the experiment's checkpoint."""
    script = Path(sysconfig.get_path("scripts")) / "omni-avsr"

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), "transcribe", "--checkpoint", str(CHECKPOINT), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def wer(clips: list[SourceClip], text: str) -> float:
    return float(jiwer.wer(" ".join(clip.text for clip in clips), text))


def test_raw_clips_become_text_and_bad_files_are_named(call: Call, clips: list[SourceClip], tmp_path: Path) -> None:
    good = clips[:3]
    cut_off, empty, text, sky = (tmp_path / name for name in ("cut.mp4", "empty.mp4", "words.mp4", "sky.mkv"))
    cut_off.write_bytes(good[0].media.read_bytes()[:2000])
    empty.touch()
    text.write_text("no video at all")
    random = np.random.default_rng(0)
    write_muxed(sky, 0.01 * random.standard_normal(10 * 640), np.full((10, 288, 360, 3), 200, np.uint8))
    files = [good[0].media, cut_off, good[1].media, empty, text, sky, good[2].media]
    done = call(*files, "--task", "avsr")
    assert done.returncode == 1
    lines = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines())
    assert list(lines) == [str(clip.media) for clip in good]
    assert wer(good, " ".join(lines.values())) <= 0.12  # two words of eighteen
    for bad in (cut_off, empty, text, sky):
        assert sum(str(bad) in line for line in done.stderr.splitlines() if line.startswith("error: ")) == 1, bad
    assert "no face" in next(line for line in done.stderr.splitlines() if str(sky) in line)


def test_a_minute_without_a_break_loses_and_doubles_nothing(
    call: Call, clips: list[SourceClip], tmp_path: Path
) -> None:
    joined = clips[:20]
    sounds, pictures = [], []
    for clip in joined:
        frames = read_video(clip.media)
        sound = read_audio(clip.media)[: len(frames) * SAMPLES_PER_FRAME]
        sounds.append(np.pad(sound, (0, len(frames) * SAMPLES_PER_FRAME - len(sound))))
        pictures.append(frames)
    write_muxed(tmp_path / "minute.mkv", np.concatenate(sounds), np.concatenate(pictures))
    done = call(tmp_path / "minute.mkv", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["task"] == "avsr"
    assert found["seconds"] == pytest.approx(60, abs=1)
    assert wer(joined, found["text"]) <= 0.05
    assert len(found["text"].split()) == pytest.approx(6 * len(joined), abs=1)
    starts = [word["start"] for word in found["words"]]
    assert all(one <= other for one, other in pairwise(starts))


def test_word_times_are_those_of_the_corpus(call: Call, clips: list[SourceClip], tmp_path: Path) -> None:
    heard = clips[:8]
    done = call(*(clip.media for clip in heard), "--task", "asr", "--format", "json", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    errors = []
    for clip in heard:
        words = json.loads((tmp_path / f"{clip.media.stem}.json").read_text())["words"]
        if [word["text"] for word in words] == clip.text.split():
            errors += [abs(w["start"] - word.start) for w, word in zip(words, clip.words, strict=True)]
    assert len(errors) >= 6 * 6
    assert np.median(errors) < 0.1
    assert np.quantile(errors, 0.9) < 0.25
