"""Contact sheets: the clips that belong there, frames from the whole clip, and nothing decoded in vain."""

from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.quality import sheets
from data_prep.quality.sheets import NUM_CLIPS, STRIP_WIDTH, TILE, Strip, film_strip, random_clips, worst_clips
from omni_avsr.media import write_video
from omni_avsr.types import Clip


def clip(id_: str, video: Path | None = Path("v.mp4"), num_frames: int = 75, **quality: float) -> Clip:
    return Clip(id_, "text", "train", 3.0, Path("a.flac"), video, num_frames if video else 0, quality=quality)


def pixels(strip: Strip) -> np.ndarray:
    assert strip.picture is not None
    data = b64decode(strip.picture.removeprefix("data:image/jpeg;base64,"))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)


def grey_levels(strip: Strip) -> list[int]:
    """The level in the middle of each tile."""
    return [int(pixels(strip)[TILE // 2, TILE // 2 + TILE * place]) for place in range(STRIP_WIDTH // TILE)]


def test_random_clips_have_video_and_follow_the_seed() -> None:
    clips = [clip(f"{n:03d}", None if n % 2 else Path("v.mp4")) for n in range(200)]
    chosen = random_clips(clips, seed=0)
    assert len(chosen) == NUM_CLIPS
    assert all(one.video is not None for one in chosen)
    assert [one.id for one in chosen] == sorted({one.id for one in chosen})
    assert random_clips(clips, seed=0) == chosen
    assert random_clips(clips, seed=1) != chosen
    assert len(random_clips(clips[:9], seed=0)) == 5


def test_worst_clips_have_the_fewest_faces_and_then_the_smallest() -> None:
    clips = [
        clip("fine", detected=1.0, face_size=120.0),
        clip("small", detected=1.0, face_size=40.0),
        clip("lost", detected=0.3, face_size=200.0),
        clip("heard", None, detected=0.0),
        clip("imported"),
        clip("unmeasured", detected=1.0),
    ]
    assert [one.id for one in worst_clips(clips)] == ["lost", "small", "fine", "unmeasured"]
    assert len(worst_clips([clip(str(n), detected=1.0) for n in range(99)])) == NUM_CLIPS


def test_a_strip_shows_frames_from_the_whole_clip(tmp_path: Path) -> None:
    frames = np.repeat(np.arange(0, 250, 10, dtype=np.uint8), 96 * 96).reshape(25, 96, 96)
    write_video(tmp_path / "v.mp4", frames, lossless=True)
    strip = film_strip(clip("a", tmp_path / "v.mp4", 25))
    assert strip.problem == ""
    assert pixels(strip).shape == (TILE, STRIP_WIDTH)
    np.testing.assert_allclose(grey_levels(strip), [20, 70, 120, 170, 220], atol=3)


def test_a_clip_of_one_frame_is_shown_once(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", np.full((1, 96, 96), 250, np.uint8), lossless=True)
    strip = film_strip(clip("a", tmp_path / "v.mp4", 1))
    np.testing.assert_allclose(grey_levels(strip), [250, 128, 128, 128, 128], atol=3)
    assert strip.problem == ""


def test_frames_of_another_size_are_fitted_in(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", np.full((5, 120, 240), 200, np.uint8), lossless=True)
    picture = pixels(film_strip(clip("a", tmp_path / "v.mp4", 5)))
    assert picture.shape == (TILE, STRIP_WIDTH)
    assert picture[TILE // 2, TILE // 2] > 190
    assert picture[5, TILE // 2] < 10


def test_a_video_that_ends_early_shows_what_there_is_and_says_so(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", np.full((25, 96, 96), 200, np.uint8))
    strip = film_strip(clip("a", tmp_path / "v.mp4", 50))
    assert strip.picture is not None
    assert strip.problem == "the video ends before frame 25"


@pytest.mark.parametrize("content", [None, b"", b"no video at all" * 100])
def test_a_clip_that_cannot_be_read_names_its_file(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "v.mp4").write_bytes(content)
    strip = film_strip(clip("a", tmp_path / "v.mp4"))
    assert strip.picture is None
    assert "v.mp4" in strip.problem


def test_any_failure_of_the_decoder_costs_the_strip_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, grey: bool) -> Iterator[np.ndarray]:
        raise RuntimeError("bad state")

    monkeypatch.setattr(sheets, "iter_video", broken)
    assert film_strip(clip("a")) == Strip(None, "RuntimeError: bad state")


@pytest.mark.parametrize(("num_frames", "num_decoded"), [(75, 68), (10**9, 676)])
def test_nothing_behind_the_last_frame_shown_is_decoded(
    monkeypatch: pytest.MonkeyPatch, num_frames: int, num_decoded: int
) -> None:
    decoded = []

    def endless(path: Path, grey: bool) -> Iterator[np.ndarray]:
        while True:
            decoded.append(path)
            yield np.zeros((96, 96), np.uint8)

    monkeypatch.setattr(sheets, "iter_video", endless)
    assert film_strip(clip("a", num_frames=num_frames)).problem == ""
    assert len(decoded) == num_decoded
