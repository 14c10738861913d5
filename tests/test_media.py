"""Reading and writing media: sync, resampling by timestamps, exact round trips, errors that say what is wrong."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from omni_avsr import media
from omni_avsr.media import MediaError, iter_video, probe, read_audio, read_video, write_audio, write_video

MILLISECOND = Fraction(1, 1000)


def mux(
    path: Path,
    levels: list[int] | None = None,
    times: list[float] | None = None,
    audio: np.ndarray | None = None,
    audio_start: float = 0.0,
    rate: int = 16_000,
    codec: str = "pcm_s16le",
    rotation: int | None = None,
) -> Path:
    """A file with flat frames of the given grey levels at the given times, and audio [channels, samples]."""
    with av.open(str(path), "w") as container:
        video: Any = None
        sound: Any = None
        if levels is not None:
            video = container.add_stream("libx264", rate=25, options={"qp": "0", "bf": "0"})
            video.width = video.height = 32
            video.pix_fmt = "yuv444p"
            video.codec_context.time_base = MILLISECOND
            if rotation is not None:
                video.set_display_rotation(rotation)
        if audio is not None:
            sound = container.add_stream(codec, rate=rate, layout="stereo" if len(audio) == 2 else "mono")
        for level, time in zip(levels or [], times or [], strict=True):
            pixels = np.full((32, 32, 3), level, np.uint8)
            pixels[:8] = 255 - level
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), MILLISECOND
            container.mux(video.encode(frame))
        if video is not None:
            container.mux(video.encode(None))
        if audio is not None:
            size = 1024
            for first in range(0, audio.shape[1], size):
                block = np.ascontiguousarray(audio[:, first : first + size], dtype=np.float32)
                block_frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=sound.layout.name)
                block_frame.sample_rate = rate
                block_frame.time_base = Fraction(1, rate)
                block_frame.pts = first + round(audio_start * rate)
                container.mux(sound.encode(block_frame))
            container.mux(sound.encode(None))
    return path


def shown(video: np.ndarray) -> list[int]:
    """The level each frame was drawn with, read off its middle."""
    return [int(frame[20, 16]) if frame.ndim == 2 else int(frame[20, 16, 0]) for frame in video]


def tone(seconds: float, rate: int, start: float, end: float) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return np.where((times >= start) & (times < end), 0.5 * np.sin(2 * np.pi * 440 * times), 0.0)


@pytest.mark.parametrize("frame_rate", [24, 30, 50])
def test_flash_and_beep_stay_together(tmp_path: Path, frame_rate: int) -> None:
    times = [index / frame_rate for index in range(2 * frame_rate)]
    levels = [220 if 1.0 <= time < 1.2 else 20 for time in times]
    beep = tone(2.0, 44_100, 1.0, 1.2)
    path = mux(tmp_path / "clip.mp4", levels, times, np.stack([beep, beep]), rate=44_100, codec="aac")
    flash = np.flatnonzero(np.array(shown(read_video(path, grey=True))) > 120)[0] / 25
    onset = np.flatnonzero(np.abs(read_audio(path)) > 0.1)[0] / 16_000
    assert flash == pytest.approx(1.0, abs=1 / 25)
    assert onset == pytest.approx(1.0, abs=0.02)


def test_frames_of_30_fps_become_25_fps_by_their_times(tmp_path: Path) -> None:
    frames = np.repeat(np.arange(60, dtype=np.uint8), 32 * 32).reshape(60, 32, 32)
    write_video(tmp_path / "clip.mp4", frames, fps=30, lossless=True)
    assert shown(read_video(tmp_path / "clip.mp4", grey=True)) == [k * 30 // 25 for k in range(50)]


def test_variable_frame_rate_shows_what_is_on_at_each_moment(tmp_path: Path) -> None:
    times = [0.0, 0.010, 0.5, 0.54, 0.9]
    path = mux(tmp_path / "clip.mkv", [10, 60, 110, 160, 210], times)
    seen = shown(read_video(path, grey=True))
    expected = [[10, 60, 110, 160, 210][np.searchsorted(times, k / 25 + 1e-6, side="right") - 1] for k in range(23)]
    assert np.abs(np.array(seen[:23]) - expected).max() <= 1


def test_audio_that_starts_late_is_preceded_by_silence(tmp_path: Path) -> None:
    path = mux(tmp_path / "clip.mkv", [50] * 25, [k / 25 for k in range(25)], np.full((1, 8000), 0.5), audio_start=0.25)
    waveform = read_audio(path)
    assert len(waveform) == pytest.approx(4000 + 8000, abs=20)
    assert np.abs(waveform[:3980]).max() == 0
    assert waveform[4020:12000].min() > 0.4


def test_video_that_starts_late_shows_its_first_frame_from_the_beginning(tmp_path: Path) -> None:
    times = [0.4 + k / 25 for k in range(10)]
    path = mux(tmp_path / "clip.mkv", [20 * k for k in range(10)], times, np.zeros((1, 16_000)))
    seen = np.array(shown(read_video(path, grey=True)))
    assert len(seen) == 20
    assert seen[:11].max() <= 1
    assert np.abs(seen[[11, 19]] - [20, 180]).max() <= 1


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = np.full(16_000, 0.8), np.full(16_000, 0.4)
    path = mux(tmp_path / "clip.wav", audio=np.stack([left, right]))
    np.testing.assert_allclose(read_audio(path), 0.6, atol=1e-3)


def test_audio_is_resampled_to_16_khz(tmp_path: Path) -> None:
    waveform = read_audio(mux(tmp_path / "clip.wav", audio=tone(1.0, 8000, 0, 1)[None], rate=8000))
    assert waveform.dtype == np.float32
    assert len(waveform) == 16_000
    np.testing.assert_allclose(waveform[200:-200], tone(1.0, 16_000, 0, 1)[200:-200], atol=0.01)


def test_rotation_of_a_phone_video_is_applied(tmp_path: Path) -> None:
    upright = read_video(mux(tmp_path / "a.mp4", [40, 40], [0.0, 0.04]), grey=True)[0]
    turned = read_video(mux(tmp_path / "b.mp4", [40, 40], [0.0, 0.04], rotation=90), grey=True)[0]
    np.testing.assert_array_equal(turned, np.rot90(upright))


def test_lossless_grey_frames_come_back_exactly(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 95, 97), dtype=np.uint8)
    write_video(tmp_path / "clip.mp4", frames[:, :94, :96], lossless=True)
    np.testing.assert_array_equal(read_video(tmp_path / "clip.mp4", grey=True), frames[:, :94, :96])


def test_lossless_colour_frames_come_back_exactly(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)
    write_video(tmp_path / "clip.mp4", frames, lossless=True)
    np.testing.assert_array_equal(read_video(tmp_path / "clip.mp4"), frames)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_frames_give_the_same_lossy_file_whatever_memory_held_before(tmp_path: Path, channels: int) -> None:
    random = np.random.default_rng(0)
    blocks = random.integers(0, 128, (40, 12, 12), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    frames = blocks + random.integers(0, 60, blocks.shape, dtype=np.uint8)
    frames = frames if channels == 1 else np.stack([frames] * 3, axis=-1)
    files, kept = [], []
    for number in range(4):
        write_video(tmp_path / "clip.mp4", frames)
        files.append((tmp_path / "clip.mp4").read_bytes())
        kept.append(random.random(100_000 * (number + 1)))
    assert files.count(files[0]) == len(files)


def test_lossy_grey_frames_keep_their_levels_and_take_less_room(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 96).astype(np.uint8)
    frames = np.stack([np.roll(np.tile(ramp, (96, 1)), shift, axis=1) for shift in range(25)])
    write_video(tmp_path / "small.mp4", frames)
    difference = read_video(tmp_path / "small.mp4", grey=True).astype(int) - frames
    assert np.abs(difference).mean() < 2
    assert abs(difference.mean()) < 0.5


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_16_bit_audio_comes_back_exactly_and_the_rest_is_clipped(tmp_path: Path, suffix: str) -> None:
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 40_000).astype(np.float32) / 2**15
    samples[:2] = 3.0, -3.0
    write_audio(tmp_path / f"a.{suffix}", samples)
    back = read_audio(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(back, np.clip(samples, -1, 1 - 2**-15))


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames, lossless=True)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.flac"
    write_audio(path, np.zeros(100, np.float32))
    before = path.read_bytes()

    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(media.os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_audio(path, np.ones(100, np.float32))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_unreadable_files_are_named_with_the_reason(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.touch()
    text.write_text("this is no video " * 100)
    for read in (read_audio, read_video):
        with pytest.raises(MediaError, match=r"missing\.mp4: no such file"):
            read(tmp_path / "missing.mp4")
        with pytest.raises(MediaError, match=r"empty\.mp4: the file is empty"):
            read(empty)
        with pytest.raises(MediaError, match=r"text\.mp4: not a readable media file"):
            read(text)


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (10, 32, 32), dtype=np.uint8)
    write_video(tmp_path / "whole.mp4", frames)
    (tmp_path / "half.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:5000])
    with pytest.raises(MediaError, match=r"half\.mp4"):
        read_video(tmp_path / "half.mp4")


def test_a_missing_stream_is_named(tmp_path: Path) -> None:
    silent = mux(tmp_path / "silent.mp4", [10], [0.0])
    blind = mux(tmp_path / "blind.wav", audio=np.zeros((1, 1600)))
    assert probe(silent) == (False, True)
    assert probe(blind) == (True, False)
    with pytest.raises(MediaError, match=r"silent\.mp4: the file has no audio stream"):
        read_audio(silent)
    with pytest.raises(MediaError, match=r"blind\.wav: the file has no video stream"):
        next(iter_video(blind))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 8, 8), np.float32), "expected uint8"),
        (np.zeros((0, 8, 8), np.uint8), "no frames"),
        (np.zeros((2, 9, 8, 3), np.uint8), "even sides"),
    ],
)
def test_frames_that_cannot_be_written_are_refused(tmp_path: Path, frames: np.ndarray, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        write_video(tmp_path / "clip.mp4", frames)
    assert not list(tmp_path.iterdir())
