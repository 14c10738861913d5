"""The compact video encoder: mouth crops to 25 features a second, a few million parameters, trainable on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_avsr.config import CompactVideoConfig
from omni_avsr.encoders.fronts import VideoFront
from omni_avsr.encoders.stem import STEM_FRAMES, with_neighbours
from omni_avsr.encoders.trunk import Trunk
from omni_avsr.types import Features


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

    def __init__(self, config: CompactVideoConfig) -> None:
        super().__init__()
        self.config = config
        self.front = VideoFront(config.image_size)
        self.frame_rate, self.max_seconds = self.front.frame_rate, self.front.max_seconds
        self.output_dim = config.dim
        channels = config.channels
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
        self.front.check(inputs.lengths)
        mask = inputs.mask()
        video = self.front.resized(inputs.values.masked_fill(~mask[..., None, None], 0.0))
        features = self._of_frames(with_neighbours(video)[mask])
        values = features.new_zeros(*mask.shape, self.output_dim)
        values[mask] = features
        return self.trunk(Features(self.dropout(values), inputs.lengths))

    def encode_clip(self, values: Tensor) -> Tensor:
        """[1, T, image_size, image_size] of one clip -> [1, T, dim]."""
        features = self._of_frames(with_neighbours(values)[0])[None]
        return self.trunk(Features.whole(features)).values

    def _of_frames(self, frames: Tensor) -> Tensor:
        """Frames with their neighbours [N, size, size, STEM_FRAMES] -> [N, dim]."""
        frames = frames.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        return self.project(self.resnet(self.stem(frames)).flatten(1))
