"""Stretches and every nth frame of a file, and files that ask for more than they should get."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from omni_avsr import media
from omni_avsr.media import MediaError, TooLongError, iter_video, read_audio, write_audio, write_video

LEVELS = np.arange(0, 250, 5, dtype=np.uint8)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Two seconds: frame k is of level 5 k."""
    write_video(tmp_path / "v.mp4", np.broadcast_to(LEVELS[:, None, None], (50, 16, 16)), lossless=True)
    return tmp_path / "v.mp4"


def levels(path: Path, **arguments: Any) -> list[int]:
    return [int(frame[0, 0]) // 5 for frame in iter_video(path, grey=True, **arguments)]


def test_a_stretch_of_a_video_is_what_is_on_show_in_it(video: Path) -> None:
    whole = levels(video)
    assert whole == list(range(50))
    assert levels(video, span=(0.4, 1.2)) == whole[10:30]
    assert levels(video, span=(0.0, 0.04)) == whole[:1]
    assert levels(video, span=(1.6, 99.0)) == whole[40:]
    # Between two frames the earlier one is on show.
    assert levels(video, span=(0.41, 0.53)) == whole[10:13]


def test_every_nth_frame_is_that_of_all_frames(video: Path) -> None:
    assert levels(video, every=4) == levels(video)[::4]
    assert levels(video, every=7, span=(0.4, 1.2)) == levels(video)[10:30:7]


def test_a_stretch_of_sound_is_that_of_the_whole(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", np.linspace(-0.9, 0.9, 16_000).astype(np.float32))
    whole = read_audio(tmp_path / "a.flac")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.flac", (0.25, 0.5)), whole[4000:8000])
    np.testing.assert_array_equal(read_audio(tmp_path / "a.flac", (0.75, 9.0)), whole[12_000:])


def test_a_stretch_behind_the_end_is_an_error_that_tells_the_length(video: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", np.zeros(16_000, np.float32))
    with pytest.raises(MediaError, match=r"v\.mp4: the video ends after 2\.00 s, before 2\.50 s"):
        levels(video, span=(2.5, 3.0))
    with pytest.raises(MediaError, match=r"a\.flac: the audio ends after 1\.00 s, before 1\.50 s"):
        read_audio(tmp_path / "a.flac", (1.5, 2.0))


def test_a_frame_that_is_too_large_is_refused_by_the_decoder(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "_MAX_PIXELS", 100)
    with pytest.raises(MediaError, match=r"v\.mp4: the video stream cannot be decoded"):
        levels(video)


def test_a_jump_in_time_is_an_error_and_not_a_frame_shown_for_ever(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "jump.mkv"), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "gray"
        stream.codec_context.time_base = Fraction(1, 1000)
        for milliseconds in (0, 40, 1_000_000_000):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16), np.uint8), format="gray")
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match=r"jump\.mkv: a frame comes 1000000 s after the one before it"):
        levels(tmp_path / "jump.mkv")


def test_sound_that_starts_days_after_the_pictures_is_an_error(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "late.mkv"), "w") as container:
        video: Any = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 16, 16, "gray"
        audio: Any = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16), np.uint8), format="gray")))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = 16_000, 16_000 * 200_000, Fraction(1, 16_000)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    with pytest.raises(MediaError, match=r"late\.mkv: the audio has a gap of 200000 s"):
        read_audio(tmp_path / "late.mkv")


def test_missing_sound_is_silence_where_it_is_missing(tmp_path: Path) -> None:
    """Half a second of packets was lost; what comes after them stays where it was."""
    with av.open(str(tmp_path / "lost.mkv"), "w") as container:
        audio: Any = container.add_stream("pcm_s16le", rate=44_100, layout="stereo")
        for number in range(100):
            if 40 <= number < 60:
                continue
            level = 3000 if number < 40 else 9000
            sound = av.AudioFrame.from_ndarray(np.full((1, 2 * 1024), level, np.int16), format="s16", layout="stereo")
            sound.sample_rate, sound.pts, sound.time_base = 44_100, number * 1024, Fraction(1, 44_100)
            container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    samples = read_audio(tmp_path / "lost.mkv")
    begin, end = (round(number * 1024 / 44_100 * 16_000) for number in (40, 60))
    assert len(samples) == pytest.approx(100 * 1024 / 44_100 * 16_000, abs=40)
    assert np.abs(samples[begin + 40 : end - 40]).max() < 1e-3
    assert np.abs(samples[100 : begin - 40] - 3000 / 2**15).max() < 0.01
    assert np.abs(samples[end + 40 : -100] - 9000 / 2**15).max() < 0.01


def test_no_more_is_decoded_than_may_be(video: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", np.zeros(32_000, np.float32))
    assert len(read_audio(tmp_path / "a.flac", max_seconds=2.0)) == 32_000
    assert levels(video, max_seconds=2.0) == list(range(50))
    with pytest.raises(TooLongError, match=r"a\.flac: the audio is longer than 1\.5 s"):
        read_audio(tmp_path / "a.flac", max_seconds=1.5)
    frames = iter_video(video, grey=True, max_seconds=1.0)
    seen = []
    with pytest.raises(TooLongError, match=r"v\.mp4: the video is longer than 1 s"):
        seen += list(frames)
    assert not seen
    assert len(read_audio(tmp_path / "a.flac", (0.5, 1.0), max_seconds=0.5)) == 8000


def test_what_comes_after_a_stretch_is_not_decoded(tmp_path: Path) -> None:
    """The file is broken behind it."""
    write_audio(tmp_path / "a.wav", np.full(160_000, 0.5, np.float32))
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[: len(data) // 2])
    np.testing.assert_array_equal(read_audio(tmp_path / "cut.wav", (0.0, 2.0)), np.full(32_000, 0.5, np.float32))


def test_a_stream_that_nothing_here_decodes_is_an_error(video: Path, tmp_path: Path) -> None:
    """A codec of which only the name is known."""
    data = video.read_bytes()
    assert b"avc1" in data
    (tmp_path / "odd.mp4").write_bytes(data.replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match=r"odd\.mp4"):
        levels(tmp_path / "odd.mp4")
