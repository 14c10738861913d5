"""The clip cache against decoding, and what makes it decode again."""

import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from omni_avsr.data import cache as cache_module
from omni_avsr.data.cache import open_cache
from omni_avsr.media import read_audio, read_video, write_audio, write_video
from omni_avsr.types import Clip

SIZE = 16


def make_clip(
    folder: Path, name: str, frames: int = 5, audio: bool = True, video: bool = True, size: int = SIZE
) -> Clip:
    random = np.random.default_rng(sum(name.encode()))
    clip = Clip(name, "a text", "train", frames / 25)
    if audio:
        clip = replace(clip, audio=folder / f"{name}.flac")
        write_audio(folder / f"{name}.flac", random.uniform(-0.9, 0.9, frames * 640).astype(np.float32))
    if video:
        clip = replace(clip, video=folder / f"{name}.mp4", num_frames=frames)
        pixels = random.integers(0, 256, (frames, size, size), dtype=np.uint8)
        write_video(folder / f"{name}.mp4", pixels, lossless=True)
    return clip


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return [make_clip(tmp_path, "one", 5), make_clip(tmp_path, "two", 3), make_clip(tmp_path, "three", 4)]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the audio files that were decoded so far."""
    names: list[str] = []

    def read(path: Path) -> np.ndarray:
        names.append(Path(path).stem)
        return read_audio(path)

    monkeypatch.setattr(cache_module, "read_audio", read)
    return names


def test_cached_clips_equal_decoded_ones(clips: list[Clip], tmp_path: Path) -> None:
    cache = open_cache(clips, tmp_path / "cache")
    for clip in reversed(clips):
        assert clip.audio is not None
        assert clip.video is not None
        waveform, video = cache.waveform(clip), cache.video(clip)
        assert waveform is not None
        assert video is not None
        assert waveform.dtype is torch.float32
        assert video.dtype is torch.uint8
        np.testing.assert_allclose(waveform.numpy(), read_audio(clip.audio), atol=1 / 32768, rtol=0)
        np.testing.assert_array_equal(video.numpy(), read_video(clip.video, grey=True))
    assert cache.failed == {}
    assert cache.crop_size == SIZE


def test_samples_at_full_scale_do_not_wrap_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path, "loud", video=False)
    loud = np.array([1.0, -1.0, 1.7, -1.7, 0.5], np.float32)
    monkeypatch.setattr(cache_module, "read_audio", lambda path: loud)
    waveform = open_cache([clip], tmp_path / "cache").waveform(clip)
    assert waveform is not None
    np.testing.assert_allclose(waveform.numpy(), loud.clip(-1, 1), atol=1 / 32768)


def test_changing_what_was_read_does_not_change_the_cache(clips: list[Clip], tmp_path: Path) -> None:
    cache = open_cache(clips, tmp_path / "cache")
    for read in (cache.video, cache.waveform):
        first = read(clips[0])
        assert first is not None
        kept = first.clone()
        first.zero_()
        again = read(clips[0])
        assert again is not None
        assert torch.equal(again, kept)


def test_clips_without_audio_or_video(tmp_path: Path) -> None:
    heard, seen = make_clip(tmp_path, "heard", video=False), make_clip(tmp_path, "seen", audio=False)
    both = make_clip(tmp_path, "both")
    cache = open_cache([heard, seen, both], tmp_path / "cache")
    assert cache.video(heard) is None
    assert cache.waveform(seen) is None
    assert cache.waveform(heard) is not None
    assert seen.video is not None
    np.testing.assert_array_equal(cache.video(seen), read_video(seen.video, grey=True))
    assert cache.video(both) is not None


def test_a_corpus_without_any_video(tmp_path: Path) -> None:
    clip = make_clip(tmp_path, "heard", video=False)
    cache = open_cache([clip], tmp_path / "cache")
    assert cache.video(clip) is None
    assert cache.waveform(clip) is not None


def test_a_second_opening_decodes_nothing(clips: list[Clip], tmp_path: Path, decoded: list[str]) -> None:
    open_cache(clips, tmp_path / "cache")
    assert decoded == ["one", "two", "three"]
    again = open_cache(clips, tmp_path / "cache")
    assert decoded == ["one", "two", "three"]
    assert again.waveform(clips[2]) is not None


@pytest.mark.parametrize(("samples", "later_ns"), [(640, 1_000_000), (641, 0)], ids=["other time", "other size"])
def test_a_changed_file_makes_a_new_cache(samples: int, later_ns: int, tmp_path: Path) -> None:
    path = tmp_path / "one.wav"
    clip = Clip("one", "a text", "train", 0.04, audio=path)
    write_audio(path, np.full(640, 0.5, np.float32))
    old = open_cache([clip], tmp_path / "cache").waveform(clip)
    before = path.stat()
    write_audio(path, np.full(samples, 0.25, np.float32))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + later_ns))
    new = open_cache([clip], tmp_path / "cache").waveform(clip)
    assert old is not None
    assert new is not None
    assert old.unique().tolist() == [0.5]
    assert new.tolist() == [0.25] * samples


def test_other_clips_make_another_cache(clips: list[Clip], tmp_path: Path, decoded: list[str]) -> None:
    open_cache(clips, tmp_path / "cache")
    cache = open_cache(clips[:2], tmp_path / "cache")
    assert decoded[3:] == ["one", "two"]
    assert clips[2] not in cache


def test_the_same_file_as_audio_and_as_video_are_not_confused(tmp_path: Path) -> None:
    seen = make_clip(tmp_path, "seen", audio=False)
    open_cache([seen], tmp_path / "cache")
    heard = replace(seen, audio=seen.video, video=None, num_frames=0)
    assert "no audio stream" in open_cache([heard], tmp_path / "cache").failed["seen"]


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_a_corrupt_clip_is_left_out_with_its_reason(kind: str, clips: list[Clip], tmp_path: Path) -> None:
    broken = getattr(clips[1], kind)
    broken.write_bytes(b"this is no media file")
    cache = open_cache(clips, tmp_path / "cache")
    assert set(cache.failed) == {"two"}
    assert str(broken) in cache.failed["two"]
    assert [clip in cache for clip in clips] == [True, False, True]
    assert clips[2].video is not None
    assert clips[2].audio is not None
    np.testing.assert_array_equal(cache.video(clips[2]), read_video(clips[2].video, grey=True))
    np.testing.assert_allclose(cache.waveform(clips[2]), read_audio(clips[2].audio), atol=1 / 32768, rtol=0)


def test_a_missing_file_is_left_out_and_found_when_it_comes(clips: list[Clip], tmp_path: Path) -> None:
    assert clips[0].video is not None
    hidden = clips[0].video.rename(tmp_path / "hidden.mp4")
    cache = open_cache(clips, tmp_path / "cache")
    assert "no such file" in cache.failed["one"]
    hidden.rename(clips[0].video)
    assert open_cache(clips, tmp_path / "cache").failed == {}


def test_crops_of_another_size_are_left_out(clips: list[Clip], tmp_path: Path) -> None:
    large = make_clip(tmp_path, "large", size=2 * SIZE)
    cache = open_cache([*clips, large], tmp_path / "cache")
    assert set(cache.failed) == {"large"}
    assert "(32, 32)" in cache.failed["large"]
    assert "16" in cache.failed["large"]


def test_a_first_clip_that_is_not_square_does_not_set_the_size(clips: list[Clip], tmp_path: Path) -> None:
    assert clips[0].video is not None
    write_video(clips[0].video, np.zeros((5, 24, 18), np.uint8), lossless=True)
    cache = open_cache(clips, tmp_path / "cache")
    assert set(cache.failed) == {"one"}
    assert cache.crop_size == SIZE


def test_an_id_that_stands_twice_is_an_error(clips: list[Clip], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 clip ids stand more than once, such as 'one'"):
        open_cache([*clips, replace(clips[1], id="one")], tmp_path / "cache")


def test_an_interrupted_decoding_leaves_nothing_behind(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path) -> np.ndarray:
        if Path(path).stem == "two":
            raise KeyboardInterrupt
        return read_audio(path)

    monkeypatch.setattr(cache_module, "read_audio", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_cache(clips, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.undo()
    assert all(clip in open_cache(clips, tmp_path / "cache") for clip in clips)


def test_progress_sees_every_clip(clips: list[Clip], tmp_path: Path) -> None:
    seen: list[str] = []

    def progress(items):
        for clip in items:
            seen.append(clip.id)
            yield clip

    open_cache(clips, tmp_path / "cache", progress)
    assert seen == ["one", "two", "three"]


def test_a_pickled_cache_carries_no_data_and_reads_the_same(tmp_path: Path) -> None:
    clip = make_clip(tmp_path, "long", frames=40)
    cache = open_cache([clip], tmp_path / "cache")
    pickled = pickle.dumps(cache)
    assert len(pickled) < 2000
    copy = pickle.loads(pickled)
    assert torch.equal(copy.video(clip), cache.video(clip))
    assert torch.equal(copy.waveform(clip), cache.waveform(clip))


def test_clips_in_a_tar_are_cached_as_loose_ones_and_a_new_tar_is_noticed(
    clips: list[Clip], tmp_path: Path, decoded: list[str]
) -> None:
    with tarfile.open(tmp_path / "clips.tar", "w") as tar:
        for clip in clips:
            for file in (clip.audio, clip.video):
                assert file is not None
                tar.add(file, file.name)
    packed = [
        replace(clip, audio=tmp_path / "clips.tar" / f"{clip.id}.flac", video=tmp_path / "clips.tar" / f"{clip.id}.mp4")
        for clip in clips
    ]
    loose, inside = open_cache(clips, tmp_path / "loose"), open_cache(packed, tmp_path / "inside")
    for clip, other in zip(clips, packed, strict=True):
        one, two = loose.waveform(clip), inside.waveform(other)
        assert one is not None
        assert two is not None
        torch.testing.assert_close(one, two, rtol=0, atol=0)
        pixels, others = loose.video(clip), inside.video(other)
        assert pixels is not None
        assert others is not None
        assert torch.equal(pixels, others)
    count = len(decoded)
    open_cache(packed, tmp_path / "inside")
    assert len(decoded) == count
    os.utime(tmp_path / "clips.tar", (1, 1))
    open_cache(packed, tmp_path / "inside")
    assert len(decoded) == count + len(clips)
