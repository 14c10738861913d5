"""What encoders do to a clip before their first weight.

Fronts hold settings alone, so an encoder that runs outside of torch has the same one without loading a weight.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from omni_avsr.config import STRICT, Positive
from omni_avsr.features import HOP, MEL_FRAME_RATE, SAMPLE_RATE, VIDEO_FPS, log_mel, log_mel_window, num_mel_frames
from omni_avsr.types import Features

Context = Literal["full", "trimmed"]
Length = Literal["covering", "published"]

_FEWEST_PUBLISHED = 25
"""Features that the published code keeps of the shortest clip."""
_WHISPER_STRIDE = 2
_WHISPER_REACH = 2
"""Mel frames behind a clip that its last feature can see through the two convolutions (kernel 3 each)."""
_VARIANCE_FLOOR = 1e-7
"""What transformers' Wav2Vec2FeatureExtractor adds to the variance of a clip."""


class Front(Protocol):
    """Of one encoder.

    frame_rate: features per second of input.
    max_seconds: longest clip that the encoder takes; infinite for one without a fixed context.
    """

    @property
    def frame_rate(self) -> float: ...

    @property
    def max_seconds(self) -> float: ...

    def check(self, lengths: Tensor) -> None:
        """Raise ValueError when a clip of ``lengths`` (samples, or frames of video) is empty or too long."""
        ...

    def num_features(self, lengths: Tensor) -> Tensor:
        """Features of clips of ``lengths`` samples or frames."""
        ...

    def clip_input(self, clip: Tensor) -> Tensor:
        """One clip, [samples] or [T, H, W], to what the encoder's first weight reads of it, [1, ...]."""
        ...


@dataclass(frozen=True, config=STRICT)
class WhisperFront:
    """Log-mel of a clip within Whisper's window; ``num_positions`` of the whole window (1500 for 30 s)."""

    num_mels: Positive
    num_positions: Positive
    context: Context
    length: Length = "covering"
    kind: Literal["whisper"] = "whisper"

    @property
    def frame_rate(self) -> float:
        return MEL_FRAME_RATE / _WHISPER_STRIDE

    @property
    def max_seconds(self) -> float:
        return _WHISPER_STRIDE * self.num_positions * HOP / SAMPLE_RATE

    def check(self, lengths: Tensor) -> None:
        shortest, longest = int(lengths.min()), int(lengths.max())
        if shortest < 1:
            raise ValueError("a clip without samples cannot be encoded; drop it from the batch")
        if longest > self.max_seconds * SAMPLE_RATE:
            raise ValueError(
                f"a clip of {longest / SAMPLE_RATE:.2f} s is longer than Whisper's context of "
                f"{self.max_seconds:g} s; cut it into shorter clips"
            )

    def num_features(self, lengths: Tensor) -> Tensor:
        if self.length == "published":
            # In float32, as there: of 1 to 1500 whole features, 66 come out one lower (on a CPU).
            return (lengths.float() / SAMPLE_RATE * self.frame_rate).long().clamp(min=_FEWEST_PUBLISHED)
        return (num_mel_frames(lengths) + _WHISPER_STRIDE - 1) // _WHISPER_STRIDE

    def num_computed(self, lengths: Tensor) -> tuple[int, int]:
        """Log-mel frames and positions that are computed for each clip of a batch."""
        max_mel_frames = _WHISPER_STRIDE * self.num_positions
        if self.context == "full":
            return max_mel_frames, self.num_positions
        num_mel = int(num_mel_frames(lengths).max()) + _WHISPER_REACH
        return min(num_mel, max_mel_frames), int(self.num_features(lengths).max())

    def clip_input(self, clip: Tensor) -> Tensor:
        """[samples] -> [1, 2 P + 1, mels] for P positions: the frames that they see, zeros behind Whisper's window."""
        waveform = Features.pad([clip])
        num_mel, num_positions = self.num_computed(waveform.lengths)
        mel = log_mel_window(waveform, num_mel, self.num_mels)
        return F.pad(mel, (0, 0, 0, _WHISPER_STRIDE * num_positions + 1 - num_mel))


@dataclass(frozen=True, config=STRICT)
class LogMelFront:
    """Log-mel of a clip's own frames, of which the encoder makes half as many features."""

    kind: Literal["log_mel"] = "log_mel"

    @property
    def frame_rate(self) -> float:
        return MEL_FRAME_RATE / 2

    @property
    def max_seconds(self) -> float:
        return math.inf

    def check(self, lengths: Tensor) -> None:
        if int(lengths.min()) < 1:
            raise ValueError("a clip without audio samples cannot be encoded")

    def num_features(self, lengths: Tensor) -> Tensor:
        return (num_mel_frames(lengths) + 1) // 2

    def clip_input(self, clip: Tensor) -> Tensor:
        """[samples] -> [1, ceil(samples / 160), 80]."""
        return log_mel(Features.pad([clip])).values


@dataclass(frozen=True, config=STRICT)
class WaveformFront:
    """The waveform itself, for convolutions of these ``kernels`` and ``strides``.

    normalize: bring each clip to mean 0 and variance 1 first.
    """

    normalize: bool
    kernels: tuple[Positive, ...]
    strides: tuple[Positive, ...]
    kind: Literal["waveform"] = "waveform"

    @property
    def frame_rate(self) -> float:
        return SAMPLE_RATE / math.prod(self.strides)

    @property
    def max_seconds(self) -> float:
        return math.inf

    @property
    def receptive_field(self) -> int:
        """Samples under one feature: 400 (25 ms) in the released models."""
        samples = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    def check(self, lengths: Tensor) -> None:
        if int(lengths.min()) < 1:
            raise ValueError("a clip without samples cannot be encoded; drop it from the batch")

    def num_features(self, lengths: Tensor) -> Tensor:
        return self.convolved(lengths)[-1]

    def convolved(self, lengths: Tensor) -> list[Tensor]:
        """Lengths behind each convolution."""
        lengths, found = lengths.clamp(min=self.receptive_field), []
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            lengths = (lengths - kernel) // stride + 1
            found.append(lengths)
        return found

    def clip_input(self, clip: Tensor) -> Tensor:
        """[samples] -> [1, samples]; silence follows a clip that is shorter than the receptive field."""
        waveform = clip.float()
        if self.normalize:
            waveform = F.layer_norm(waveform, waveform.shape, eps=_VARIANCE_FLOOR)
        return F.pad(waveform, (0, max(0, self.receptive_field - len(waveform))))[None]


@dataclass(frozen=True, config=STRICT)
class VideoFront:
    """Mouth crops at 25 fps, resized to ``image_size`` pixels where the encoder asks for it."""

    image_size: Positive | None = None
    kind: Literal["video"] = "video"

    @property
    def frame_rate(self) -> float:
        return float(VIDEO_FPS)

    @property
    def max_seconds(self) -> float:
        return math.inf

    def check(self, lengths: Tensor) -> None:
        if int(lengths.min()) < 1:
            raise ValueError("a clip without video frames cannot be encoded")

    def num_features(self, lengths: Tensor) -> Tensor:
        return lengths.clone()

    def resized(self, video: Tensor) -> Tensor:
        """[B, T, H, W] -> [B, T, image_size, image_size]."""
        if self.image_size is None or video.shape[-2:] == (self.image_size, self.image_size):
            return video
        size = (self.image_size, self.image_size)
        return F.interpolate(video, size=size, mode="bilinear", antialias=True, align_corners=False)

    def clip_input(self, clip: Tensor) -> Tensor:
        """[T, H, W] -> [1, T, H, W], resized."""
        return self.resized(clip[None])


AnyFront = Annotated[WhisperFront | LogMelFront | WaveformFront | VideoFront, Field(discriminator="kind")]


def num_features_of(front: Front, clip: Tensor) -> int:
    """Features of one clip."""
    return int(front.num_features(torch.tensor([len(clip)])))
