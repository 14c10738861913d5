"""Splicing: words, times, frames and samples of a new clip are those of its parts, whole and in step."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.splice import draw_parts, splice_corpus
from omni_avsr.data.manifest import read_manifest, write_manifest
from omni_avsr.media import read_audio, read_video, write_audio, write_video
from omni_avsr.types import Clip, Word

FRAMES = (12, 14, 16, 13)


def level(clip: int, frame: int) -> int:
    """The grey of a frame, which tells its clip and its place; its samples say the same."""
    return 20 + 50 * clip + 2 * frame


def write_clip(folder: Path, number: int, frames: int, texts: list[str]) -> Clip:
    levels = np.array([level(number, frame) for frame in range(frames)])
    audio, video = folder / f"{number}.flac", folder / f"{number}.mp4"
    write_video(video, np.repeat(levels, 16 * 16).reshape(frames, 16, 16).astype(np.uint8), lossless=True)
    write_audio(audio, np.repeat(levels / 1000, 640))
    # Words of different lengths in every clip, with a pause of two frames before the second one.
    ends = [3 + number % 2, 8, 10, frames - 1]
    starts = [1, ends[0] + 2, 8, 10]
    words = tuple(Word(text, start / 25, end / 25) for text, start, end in zip(texts, starts, ends, strict=True))
    text = " ".join(texts)
    return Clip(str(number), text, "train", frames / 25, audio, video, frames, "s1", words)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    clips = [write_clip(folder, n, frames, [f"{c}{n}" for c in "abcd"]) for n, frames in enumerate(FRAMES)]
    unusable = [
        replace(clips[0], id="validation", split="validation", text="v v v v"),
        replace(clips[0], id="without times", words=()),
        replace(clips[0], id="without video", video=None, num_frames=0),
        replace(clips[0], id="alone", speaker="s2"),
        replace(clips[0], id="two words", text="a0 b0", words=clips[0].words[:2]),
    ]
    write_manifest(folder / "manifest.jsonl", clips + unusable)
    return folder / "manifest.jsonl"


@pytest.fixture(scope="module")
def spliced(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return read_manifest(
        splice_corpus(manifest, tmp_path_factory.mktemp("spliced"), 12, seed=3, margin=9.0), check_files=True
    )


def test_a_clip_has_the_words_of_three_clips_at_their_own_places(spliced: list[Clip]) -> None:
    assert len({clip.text for clip in spliced}) > 6
    for clip in spliced:
        words = clip.text.split()
        assert [word[0] for word in words] == list("abcd")
        assert len({word[1] for word in words}) == 3
        assert [word.text for word in clip.words] == words
        assert (clip.split, clip.speaker) == ("train", "s1")


def test_frames_samples_and_word_times_stay_in_step(spliced: list[Clip]) -> None:
    for clip in spliced:
        assert clip.audio is not None
        assert clip.video is not None
        levels = read_video(clip.video, grey=True)[:, 0, 0].astype(int)
        samples = read_audio(clip.audio).reshape(-1, 640)
        assert len(levels) == len(samples) == clip.num_frames == round(clip.seconds * 25)
        assert np.abs(samples * 1000 - levels[:, None]).max() < 0.1
        for word in clip.words:
            source, (first, last) = int(word.text[1]), (round(word.start * 25), round(word.end * 25))
            # Every frame of the word comes from the clip that the word comes from, one after the other.
            assert {(value - 20) // 50 for value in levels[first:last]} == {source}
            assert np.all(np.diff(levels[first:last]) == 2)


def test_pauses_are_cut_halfway() -> None:
    words = tuple(Word(text, start / 25, end / 25) for text, start, end in (("a", 0, 4), ("b", 8, 12), ("c", 12, 16)))
    group = [Clip(str(n), "a b c", "train", 0.8, Path("a"), Path("v"), 20, "s", words) for n in range(3)]
    parts = draw_parts([group], 9.0, torch.Generator().manual_seed(0))
    assert [(part.start, part.stop) for part in parts] == [(0, 6), (6, 12), (12, 20)]


def test_the_ends_are_trimmed_to_less_than_the_margin() -> None:
    words = tuple(
        Word(text, start / 25, end / 25) for text, start, end in (("a", 20, 24), ("b", 24, 28), ("c", 28, 32))
    )
    group = [Clip(str(n), "a b c", "train", 2.0, Path("a"), Path("v"), 50, "s", words) for n in range(3)]
    drawn = [draw_parts([group], 0.4, torch.Generator().manual_seed(seed)) for seed in range(40)]
    starts, stops = {parts[0].start for parts in drawn}, {parts[-1].stop for parts in drawn}
    assert starts <= set(range(10, 20))
    assert stops <= set(range(33, 43))
    assert min(len(starts), len(stops)) > 6


def test_the_same_seed_gives_the_same_corpus_and_finished_clips_stay(manifest: Path, tmp_path: Path) -> None:
    first = splice_corpus(manifest, tmp_path, 3, seed=5, margin=0.1)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*.*")}
    splice_corpus(manifest, tmp_path, 3, seed=5, margin=0.1)
    media = {path: state for path, state in before.items() if path != first}
    assert media == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in media}
    assert first.read_bytes() == before[first][0]
    other = splice_corpus(manifest, tmp_path / "other", 3, seed=6, margin=0.1)
    assert other.read_bytes() != before[first][0]


def test_without_three_clips_of_a_kind_there_is_nothing_to_splice(manifest: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path / "few.jsonl", read_manifest(manifest)[:2])
    with pytest.raises(ValueError, match=r"few\.jsonl: splicing needs a speaker with 3 training clips"):
        splice_corpus(tmp_path / "few.jsonl", tmp_path, 1, seed=0, margin=0.1)
