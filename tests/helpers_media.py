"""Media files of any container and codec."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def write_clip(path: Path, frames: np.ndarray, samples: np.ndarray, codecs: tuple[str, str]) -> None:
    """Colour frames [T, H, W, 3] at 25 fps and samples at 16 kHz in one file, by codecs for video and audio."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codecs[0], rate=Fraction(25))
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        video.bit_rate = 2_000_000
        audio: Any = container.add_stream(codecs[1], rate=16_000, layout="mono")
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 16_000, 0
        resampler = av.AudioResampler(format=audio.format.name, rate=16_000, frame_size=audio.codec_context.frame_size)
        for frame in (*resampler.resample(sound), *resampler.resample(None)):
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
