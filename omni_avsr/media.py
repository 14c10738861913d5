"""Read and write media files with PyAV: 16 kHz mono waveforms and frames at a fixed rate, in sync with each other.

Time zero of a file is the first moment at which any of its streams has something to show or to play. Both readers
count from there, so that ``video[k]`` belongs to ``audio[k * 16000 / fps :]`` even when the streams start apart.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import av
import av.container
import av.error
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange

from omni_avsr import archive
from omni_avsr.files import replacing

SAMPLE_RATE = 16_000
FRAME_RATE = 25.0

# Several containers round timestamps to a millisecond: a frame that starts this much late is still on time.
_TIMESTAMP_TOLERANCE = 1e-3
# Sound may be this far from where its timestamps say: half a video frame at 25 fps.
_AUDIO_TOLERANCE = 0.02
# A resampler has taken in more than it has given out, by less than this.
_RESAMPLER_DELAY = 0.1
# A longer pause between two frames is a broken timestamp, which would be filled with copies of one frame for ever.
_LONGEST_PAUSE = 600.0
# Above 8K a frame is an attack or a mistake; FFmpeg refuses it before memory is asked for.
_MAX_PIXELS = 7680 * 4320
_AUDIO_CODECS = {".flac": "flac", ".wav": "pcm_s16le"}
_Kind = Literal["audio", "video"]
Span = tuple[float, float]
"""A stretch of a file: its start and its end (exclusive), in seconds."""


class MediaError(ValueError):
    """A media file cannot be read or written; the message names the file and the reason."""


class TooLongError(MediaError):
    """A file goes on for longer than it may."""


class NoFaceError(MediaError):
    """A video shows no face, or not as many as one was chosen by."""


def probe(path: str | os.PathLike[str]) -> tuple[bool, bool]:
    """Whether the file has audio and whether it has video (a cover picture is none). MediaError if neither."""
    with _open(path) as container:
        found = bool(_streams(container, "audio")), bool(_streams(container, "video"))
    if not any(found):
        raise MediaError(f"{path}: the file has neither audio nor video")
    return found


def duration(path: str | os.PathLike[str]) -> float:
    """Seconds as the file's header tells them, for estimates; 0 when it does not. MediaError: it cannot be opened."""
    with _open(path) as container:
        return container.duration / av.time_base if container.duration else 0.0


def read_audio(path: str | os.PathLike[str], span: Span | None = None, max_seconds: float = math.inf) -> np.ndarray:
    """The first audio stream of any container as float32 [samples], 16 kHz, channels averaged, full scale = 1.

    Samples stand where their timestamps say: silence is put in front when the file's video starts before its audio, and
    where a piece of the audio is missing.

    Args:
        span: the stretch to read, as far as the file goes; what comes after it is not decoded.
        max_seconds: of a file that goes on longer, no more is decoded.

    Raises:
        MediaError: the file cannot be read, or ends before the span.
        TooLongError: it is longer than ``max_seconds``.
    """
    first, stop = span or (0.0, math.inf)
    chunks: list[np.ndarray] = []
    end = 0.0
    for chunk, end in _timed_audio(path):
        chunks.append(chunk)
        if min(end, stop) - first > max_seconds + _TIMESTAMP_TOLERANCE:
            raise TooLongError(f"{path}: the audio is longer than {max_seconds:g} s")
        if end >= stop + _RESAMPLER_DELAY:
            break
    samples = np.concatenate(chunks)
    if span is None:
        return samples
    if round(first * SAMPLE_RATE) >= len(samples):
        raise MediaError(f"{path}: the audio ends after {len(samples) / SAMPLE_RATE:.2f} s, before {first:.2f} s")
    return samples[round(first * SAMPLE_RATE) : round(stop * SAMPLE_RATE)]


def read_video(path: str | os.PathLike[str], fps: float = FRAME_RATE, grey: bool = False) -> np.ndarray:
    """All frames of ``iter_video`` at once: uint8 [T, H, W, 3] (RGB), or [T, H, W] when ``grey``."""
    return np.stack(list(iter_video(path, fps, grey)))


def iter_video(
    path: str | os.PathLike[str],
    fps: float = FRAME_RATE,
    grey: bool = False,
    span: Span | None = None,
    every: int = 1,
    max_seconds: float = math.inf,
) -> Iterator[np.ndarray]:
    """Frames of the first video stream, resampled to ``fps`` by their timestamps, one by one.

    Output frame k is the source frame on show at time k / fps, so a source of another or of a variable rate stays in
    sync with its audio. Yields uint8 [H, W, 3] (RGB) or [H, W], contiguous, turned upright when the file asks for a
    rotation. A frame that is shown twice is yielded twice as the same array.

    Args:
        span: the stretch to read, from whose start the time is counted.
        every: yield output frames 0, every, 2 * every... only; the others are never converted to pixels.
        max_seconds: of a file that goes on longer, no more is decoded.

    Raises:
        MediaError: the file cannot be read, or ends before the span.
        TooLongError: it is longer than ``max_seconds``.
    """
    if fps <= 0:
        raise ValueError(f"fps must be positive, got {fps}")
    first, stop = span or (0.0, math.inf)
    start = _common_start(path) + first
    last = stop - first
    shown: av.VideoFrame | None = None
    time = end = 0.0
    count = 0
    with _open(path) as container, _decoding(path, "video"):
        stream = _stream(container, path, "video")
        for frame in container.decode(stream):
            before = time
            time = frame.time - start if frame.time is not None else end
            if shown is not None:
                if time - before > _LONGEST_PAUSE:
                    raise MediaError(f"{path}: a frame comes {time - before:.0f} s after the one before it")
                yield from _shown(shown, count, _frames_before(min(time, last), fps), grey, every)
                count = max(count, _frames_before(min(time, last), fps))
            if count / fps >= last - _TIMESTAMP_TOLERANCE:
                return
            if count / fps > max_seconds + _TIMESTAMP_TOLERANCE:
                raise TooLongError(f"{path}: the video is longer than {max_seconds:g} s")
            shown = frame
            end = time + _frame_seconds(frame, stream, fps)
        if shown is None:
            raise MediaError(f"{path}: the video stream holds no frames")
        if span is not None and end <= 0:
            raise MediaError(f"{path}: the video ends after {end + first:.2f} s, before {first:.2f} s")
        yield from _shown(shown, count, max(1, _frames_before(min(end, last), fps)), grey, every)


def write_audio(path: str | os.PathLike[str], samples: np.ndarray) -> None:
    """Write float samples [samples] (full scale = 1, 16 kHz mono) as 16-bit FLAC or WAV by the suffix; atomic.

    Samples beyond full scale are clipped. What came from a 16-bit file is written back exactly.
    """
    codec = _AUDIO_CODECS.get(Path(path).suffix.lower())
    if codec is None:
        raise MediaError(f"{path}: audio is written as {' or '.join(_AUDIO_CODECS)}, not {Path(path).suffix!r}")
    if samples.ndim != 1 or not len(samples):
        raise MediaError(f"{path}: expected samples [samples], at least one, got shape {samples.shape}")
    integers = np.clip(np.round(samples.astype(np.float64) * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    with replacing(path) as temporary, av.open(str(temporary), "w", format=Path(path).suffix[1:].lower()) as container:
        stream: Any = container.add_stream(codec, rate=SAMPLE_RATE, layout="mono")
        for first in range(0, len(integers), SAMPLE_RATE):
            frame = av.AudioFrame.from_ndarray(integers[None, first : first + SAMPLE_RATE], format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            frame.pts = first
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_video(
    path: str | os.PathLike[str], frames: np.ndarray, fps: float = FRAME_RATE, lossless: bool = False, crf: int = 12
) -> None:
    """Write uint8 frames [T, H, W] (grey) or [T, H, W, 3] (RGB) as an H.264 MP4; atomic.

    lossless: every pixel comes back as it was; otherwise ``crf`` is x264's quality (0-51, smaller is better; 12 is
        visually transparent). Grey clips are monochrome H.264, so no brightness level is lost to a colour conversion.
    """
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or (frames.ndim == 4 and frames.shape[3] != 3):
        raise MediaError(
            f"{path}: expected uint8 frames [T, H, W] or [T, H, W, 3], got {frames.dtype} {list(frames.shape)}"
        )
    if not frames.size:
        raise MediaError(f"{path}: no frames to write, shape {list(frames.shape)}")
    grey = frames.ndim == 3
    if not grey and not lossless and (frames.shape[1] % 2 or frames.shape[2] % 2):
        raise MediaError(f"{path}: lossy colour video needs even sides, got {frames.shape[2]}x{frames.shape[1]}")
    codec, pixel_format = (
        ("libx264", "gray") if grey else ("libx264rgb", "rgb24") if lossless else ("libx264", "yuv420p")
    )
    # x264's macroblock tree depends on memory that it never set: the same frames would give other files each time.
    options = {"qp": "0"} if lossless else {"crf": str(crf), "mbtree": "0"}
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream: Any = container.add_stream(
            codec, rate=Fraction(fps).limit_denominator(1001), options={**options, "preset": "veryfast"}
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        if grey:
            # Without it readers stretch 16..235 to 0..255, as if the levels were those of broadcast video.
            stream.codec_context.color_range = ColorRange.JPEG
        stream.codec_context.thread_count = 1
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="gray" if grey else "rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _timed_audio(path: str | os.PathLike[str]) -> Iterator[tuple[np.ndarray, float]]:
    """The audio from time zero on, piece by piece: float32 [samples] at 16 kHz, and when the file's own piece ends."""
    start = _common_start(path)
    resampler = _mono_16_khz()
    end: float | None = None
    with _open(path) as container, _decoding(path, "audio"):
        for frame in container.decode(_stream(container, path, "audio")):
            time = frame.time - start if frame.time is not None else end or 0.0
            missing = time - (end or 0.0)
            if missing > _LONGEST_PAUSE:
                raise MediaError(f"{path}: the audio has a gap of {missing:.0f} s; its timestamps are broken")
            if (end is None and missing > 0) or missing > _AUDIO_TOLERANCE:
                yield from ((_mean(piece), time) for piece in resampler.resample(None))
                resampler = _mono_16_khz()
                yield np.zeros(round(missing * SAMPLE_RATE), np.float32), time
                end = time
            end = (end or 0.0) + frame.samples / frame.sample_rate
            yield from ((_mean(piece), end) for piece in resampler.resample(frame))
        if end is None:
            raise MediaError(f"{path}: the audio stream holds no samples")
        yield from ((_mean(piece), end) for piece in resampler.resample(None))


def _mono_16_khz() -> av.AudioResampler:
    return av.AudioResampler(format="fltp", rate=SAMPLE_RATE)


def _mean(frame: av.AudioFrame) -> np.ndarray:
    """FFmpeg's own downmix of float samples adds channels with a gain of 0.7; the mean cannot clip."""
    mean: np.ndarray = frame.to_ndarray().mean(axis=0, dtype=np.float32)
    return mean


def _frames_before(time: float, fps: float) -> int:
    """How many output frames, the first at time 0, are due before ``time``."""
    return max(0, math.ceil((time - _TIMESTAMP_TOLERANCE) * fps))


def _shown(frame: av.VideoFrame, first: int, stop: int, grey: bool, every: int) -> Iterator[np.ndarray]:
    """The pixels of ``frame`` for each output frame of ``first`` to ``stop`` that is asked for."""
    wanted = [number for number in range(first, stop) if number % every == 0]
    pixels = _pixels(frame, grey) if wanted else None
    for _ in wanted:
        assert pixels is not None
        yield pixels


def _pixels(frame: av.VideoFrame, grey: bool) -> np.ndarray:
    # Rows may carry alignment padding, which libraries that read the raw buffer (MediaPipe) take for pixels.
    pixels = frame.to_ndarray(format="gray" if grey else "rgb24")
    return np.ascontiguousarray(np.rot90(pixels, k=round(frame.rotation / 90)))


def _frame_seconds(frame: av.VideoFrame, stream: Any, fps: float) -> float:
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return 1 / float(stream.average_rate or fps)


def _common_start(path: str | os.PathLike[str]) -> float:
    """The earlier of the first audio and the first video frame in seconds.

    Frames are decoded for it: what a header says about the start counts samples that decoders drop (AAC priming).
    """
    starts = []
    kinds: tuple[_Kind, ...] = ("audio", "video")
    for kind in kinds:
        with _open(path) as container, _decoding(path, kind):
            if _streams(container, kind):
                first = next(container.decode(_stream(container, path, kind)), None)
                if first is not None:
                    starts.append(first.time or 0.0)
    return min(starts, default=0.0)


def _streams(container: av.container.InputContainer, kind: _Kind) -> list[Any]:
    found: Iterable[Any] = container.streams.audio if kind == "audio" else container.streams.video
    # The cover picture of a song is a video stream too, but it is not what anybody means by video.
    return [stream for stream in found if not stream.disposition & Disposition.attached_pic]


def _stream(container: av.container.InputContainer, path: str | os.PathLike[str], kind: _Kind) -> Any:
    streams = _streams(container, kind)
    if not streams:
        raise MediaError(f"{path}: the file has no {kind} stream")
    if streams[0].codec_context is None:
        raise MediaError(f"{path}: there is no decoder for the {kind} stream")
    # Many small files are read by many processes; threads inside a decoder would only compete with them.
    streams[0].codec_context.thread_count = 1
    if kind == "video":
        streams[0].codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
    return streams[0]


@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[av.container.InputContainer]:
    if not archive.is_file(path):
        raise MediaError(f"{path}: no such file")
    with archive.open_file(path) as source:
        if not source.seek(0, os.SEEK_END):
            raise MediaError(f"{path}: the file is empty")
        source.seek(0)
        try:
            container = av.open(source if isinstance(source, BytesIO) else os.fspath(path), "r")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise MediaError(f"{path}: not a readable media file ({_reason(error)})") from error
        with container:
            yield container


@contextmanager
def _decoding(path: str | os.PathLike[str], kind: _Kind) -> Iterator[None]:
    try:
        yield
    except MediaError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{path}: the {kind} stream cannot be decoded ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError | av.error.FFmpegError) and error.strerror else str(error)
