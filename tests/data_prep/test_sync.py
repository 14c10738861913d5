"""Sound and pictures stay together through the preparation, whatever the frame rate of the source."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from data_prep.clip import prepare_clip
from data_prep.clip_record import ClipJob, ClipRecord, ClipSettings
from omni_avsr.media import read_audio, read_video
from omni_avsr.mouth.video import FaceFinder

FLASH = 1.2
"""When the picture turns bright and a tone begins, in seconds."""
SECONDS = 2.0


def flashing(path: Path, faces: np.ndarray, times: list[float], audio_start: float) -> Path:
    """A real face (25 fps frames) shown at the given times, bright from FLASH on, with a tone from FLASH on."""
    with av.open(str(path), "w", format="matroska") as container:
        video: Any = container.add_stream("libx264", rate=25, options={"crf": "18", "bf": "2"})
        video.height, video.width, video.pix_fmt = *faces.shape[1:3], "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        audio: Any = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for time in times:
            pixels = faces[min(int(time * 25), len(faces) - 1)]
            if time >= FLASH - 1e-6:
                pixels = (pixels // 2 + 127).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        moments = audio_start + np.arange(round((SECONDS - audio_start) * 16_000)) / 16_000
        samples = np.where(moments >= FLASH, 8000 * np.sin(2 * np.pi * 440 * moments), 0).astype(np.int16)
        sound = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = 16_000, round(audio_start * 16_000), Fraction(1, 16_000)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    return path


def steady(rate: float) -> list[float]:
    return [number / rate for number in range(int(SECONDS * rate))]


def uneven() -> list[float]:
    """Pauses of 10 to 90 ms, and one of half a second before the flash."""
    random = np.random.default_rng(0)
    times = np.cumsum(random.uniform(0.01, 0.09, 200))
    kept = [float(time) for time in times if time < SECONDS and not FLASH - 0.5 < time < FLASH]
    return [0.0, *sorted([*kept, FLASH])]


@pytest.mark.parametrize(
    ("times", "audio_start", "span"),
    [
        (steady(25), 0.0, None),
        (steady(30_000 / 1001), 0.0, None),
        (steady(50), 0.0, None),
        (steady(12.5), 0.0, None),
        (uneven(), 0.0, None),
        (steady(25), 0.35, None),
        (steady(30), 0.0, (0.83, 1.9)),
        (uneven(), 0.2, (0.5, 1.6)),
    ],
    ids=["25", "29.97", "50", "12.5", "variable", "audio-late", "a-stretch", "variable-stretch"],
)
def test_flash_and_tone_stay_within_a_video_frame(
    shared: Path, tmp_path: Path, times: list[float], audio_start: float, span: tuple[float, float] | None
) -> None:
    faces = read_video(shared / "data" / "grid_unseen" / "s4_lwbsza.mp4")
    media = flashing(tmp_path / "flash.mkv", faces, times, audio_start)
    settings = ClipSettings(shared / "models" / "face_landmarker.task", FaceFinder.DETECTOR, min_detected=0.2)
    job = ClipJob("flash", media, tmp_path / "out", tmp_path / "scratch", settings, span=span)
    record = prepare_clip(job)
    assert isinstance(record, ClipRecord), record
    begin, end = span or (0.0, SECONDS)
    assert record.seconds == pytest.approx(end - begin, abs=0.1)
    brightness = read_video(job.video_file, grey=True).mean(axis=(1, 2))
    samples = np.abs(read_audio(job.audio_file))
    assert len(samples) == len(brightness) * 640
    seen = int(np.argmax(np.diff(brightness))) + 1
    heard = int(np.argmax(samples > 0.05))
    assert abs(seen / 25 - heard / 16_000) <= 0.04 + 1e-6
    assert abs(heard / 16_000 - (FLASH - begin)) <= 0.02
    assert np.ptp(brightness) > 30
