"""The compact video encoder: mouth crops to 25 features a second, a few million parameters, trainable on a CPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_avsr.config import CompactVideoConfig
from omni_avsr.encoders.trunk import Trunk
from omni_avsr.features import VIDEO_FPS
from omni_avsr.types import Features

STEM_FRAMES = 5
"""Frames that the stem's 3-D convolution sees at once (200 ms)."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a (projected) shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.shortcut(x)
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)) + residual)


class CompactVideoEncoder(nn.Module):
    """3-D convolution, small ResNet on each frame, then the temporal trunk. Keeps the ``Encoder`` contract.

    Only the real frames pass through the convolutions, so neither the features nor batch norm's statistics ever see
    padding, and no compute is spent on it.
    """

    frame_rate = float(VIDEO_FPS)
    max_seconds = math.inf

    def __init__(self, config: CompactVideoConfig) -> None:
        super().__init__()
        self.config = config
        self.output_dim = config.dim
        channels = config.channels
        # A 3-D convolution over one input channel equals a 2-D one over the stacked frames, which CPUs run much faster.
        self.stem = nn.Sequential(
            nn.Conv2d(STEM_FRAMES, channels[0], 7, 2, 3, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        stages = []
        for index, width in enumerate(channels):
            in_channels, stride = (width, 1) if index == 0 else (channels[index - 1], 2)
            stages += [ResidualBlock(in_channels, width, stride), ResidualBlock(width, width, 1)]
        self.resnet = nn.Sequential(*stages)
        side = config.image_size // config.stride
        self.project = nn.Linear(channels[-1] * side * side, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.trunk = Trunk(config.dim, config.num_layers, config.num_heads, config.kernel, config.dropout)

    def forward(self, inputs: Features) -> Features:
        """[B, T, height, width] grey mouth crops at 25 fps, normalised -> [B, T, dim]."""
        if int(inputs.lengths.min()) < 1:
            raise ValueError("a clip without video frames cannot be encoded")
        mask = inputs.mask()
        features = self.project(self._frames(inputs.values, mask).flatten(1))
        values = features.new_zeros(*mask.shape, self.output_dim)
        values[mask] = features
        return self.trunk(Features(self.dropout(values), inputs.lengths))

    def _frames(self, video: Tensor, mask: Tensor) -> Tensor:
        """The real frames of the batch, each with its neighbours: [num_real, channels, side, side]."""
        video = video.masked_fill(~mask[..., None, None], 0.0)
        size = self.config.image_size
        if video.shape[-2:] != (size, size):
            video = F.interpolate(video, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        reach = STEM_FRAMES // 2
        stacked = F.pad(video, (0, 0, 0, 0, reach, reach)).unfold(1, STEM_FRAMES, 1)
        frames = stacked[mask].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        return self.resnet(self.stem(frames))
