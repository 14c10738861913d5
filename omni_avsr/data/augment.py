"""Random changes to training clips, every draw from a passed generator; centre crop and nothing else at test."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from omni_avsr.config import STRICT
from omni_avsr.data.noise import NoiseSource
from omni_avsr.features import MOUTH_CROP, SAMPLE_RATE, VIDEO_FPS

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class AugmentConfig:
    """Augmentation as published (Omni-AVSR 1.5) by default; ``snr_db`` null stands for clean.

    Time masks are adaptive: one per second of the clip, each of a random length up to the maximum. ``zoom`` is the
    largest relative change of size, ``rotation`` the largest turn in degrees; both hold for the whole clip.
    """

    flip: Share = 0.0
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    video_mask_frames: Annotated[int, Field(ge=0)] = 10
    audio_mask_samples: Annotated[int, Field(ge=0)] = 6400
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    snr_db: tuple[float | None, ...] = field(default=(-5.0, 0.0, 5.0, 10.0, 15.0, 20.0, None))


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def mask_time(values: Tensor, masks: int, longest: int, fill: Tensor | float, generator: torch.Generator) -> Tensor:
    """Overwrite ``masks`` random stretches of dim 0, each at most ``longest`` steps, with ``fill``. Returns a copy."""
    values = values.clone()
    for _ in range(masks):
        length = min(int(torch.randint(longest + 1, (), generator=generator)), len(values))
        start = int(torch.randint(len(values) - length + 1, (), generator=generator))
        values[start : start + length] = fill
    return values


class Augmenter:
    """Augments clips for training; all randomness comes from the generator of each call."""

    def __init__(self, config: AugmentConfig, noise: NoiseSource | None) -> None:
        if noise is None and any(level is not None for level in config.snr_db):
            raise ValueError("augment.snr_db names noise levels, but no noise file is given (data.noise)")
        self.config, self.noise = config, noise

    def video(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """[T, 96, 96] uint8 mouth crops -> [T, 88, 88] uint8. ValueError when they are smaller than that."""
        config = self.config
        free = crops.shape[-1] - MOUTH_CROP
        if free < 0:
            raise ValueError(f"mouth crops of {crops.shape[-1]} pixels are too small; {MOUTH_CROP} of them are used")
        if config.zoom or config.rotation:
            scale = uniform(1 - config.zoom, 1 + config.zoom, generator)
            angle = uniform(-config.rotation, config.rotation, generator)
            border = [float(crops.float().mean())]
            crops = vision.affine(crops, angle, [0, 0], scale, [0.0, 0.0], InterpolationMode.BILINEAR, border)
        top, left = torch.randint(free + 1, (2,), generator=generator).tolist()
        crops = vision.crop(crops, top, left, MOUTH_CROP, MOUTH_CROP)
        if uniform(0, 1, generator) < config.flip:
            crops = vision.horizontal_flip(crops)
        if config.brightness or config.contrast:
            gain = uniform(1 - config.contrast, 1 + config.contrast, generator)
            shift = 255 * uniform(-config.brightness, config.brightness, generator)
            mean = crops.float().mean()
            crops = ((crops - mean) * gain + mean + shift).clamp(0, 255).to(torch.uint8)
        if config.video_mask_frames:
            masks = -(-len(crops) // VIDEO_FPS)
            fill = crops.float().mean().to(torch.uint8)
            crops = mask_time(crops, masks, config.video_mask_frames, fill, generator)
        return crops

    def audio(self, waveform: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        """[samples] float32 -> the same, masked in places and in noise; and its SNR in dB, infinite when clean."""
        if self.config.audio_mask_samples:
            masks = -(-len(waveform) // SAMPLE_RATE)
            waveform = mask_time(waveform, masks, self.config.audio_mask_samples, 0.0, generator)
        levels = self.config.snr_db
        level = levels[int(torch.randint(len(levels), (), generator=generator))] if levels else None
        if level is None or self.noise is None:
            return waveform, math.inf
        return self.noise.mix(waveform, level, generator), level
