"""The video path of AV-HuBERT (Shi, Hsu, Lakhotia, Mohamed 2022) in plain torch: mouth crops to 25 features a second.

The model was pretrained on sound and pictures; without sound, the sound's half of the fused features is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from omni_avsr.config import AVHubertConfig
from omni_avsr.encoders.fronts import VideoFront
from omni_avsr.encoders.stem import STEM_FRAMES, with_neighbours
from omni_avsr.types import Features

POSITION_KERNEL = 128
POSITION_GROUPS = 16
BLOCKS_PER_STAGE = 2
FRAMES_AT_ONCE = 32
"""Frames that pass through the ResNet together: enough to keep a CPU's vector units busy, few enough for its caches."""


class AVHubertEncoder(nn.Module):
    """ResNet-18 with PReLU on each frame, then a pre-norm transformer. Keeps the ``Encoder`` contract.

    Only real frames pass through the ResNet, and attention never looks behind a clip, so that features are those of the
    clip alone; the published code has no mask at all.
    """

    front = VideoFront()
    frame_rate, max_seconds = front.frame_rate, front.max_seconds

    def __init__(self, config: AVHubertConfig) -> None:
        """Random weights, without LoRA; ``avhubert_weights`` reads published ones."""
        super().__init__()
        dim = self.output_dim = config.dim
        self.resnet = ResNet(config.channels)
        self.project = nn.Linear(config.channels[-1], dim)
        self.fusion_norm = nn.LayerNorm(2 * dim)
        self.fuse = nn.Linear(2 * dim, dim)
        self.position = weight_norm(
            nn.Conv1d(dim, dim, POSITION_KERNEL, padding=POSITION_KERNEL // 2, groups=POSITION_GROUPS), dim=2
        )
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.layer_drop = config.layer_drop
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, inputs: Features) -> Features:
        """[B, T, height, width] grey mouth crops of 88 x 88 at 25 fps, normalised -> [B, T, dim]."""
        self.front.check(inputs.lengths)
        mask = inputs.mask()
        fused = self._fuse(self.resnet(inputs.values.to(self.fuse.weight.dtype), mask))
        x = fused.new_zeros(*mask.shape, self.output_dim)
        x[mask] = fused
        return Features(self._transform(x, mask).masked_fill(~mask[..., None], 0.0), inputs.lengths)

    def encode_clip(self, values: Tensor) -> Tensor:
        """[1, T, height, width] of one clip -> [1, T, dim]."""
        fused = self._fuse(self.resnet.means(with_neighbours(values)[0]))[None]
        return self._transform(fused, Features.whole(fused).mask())

    def _fuse(self, pictures: Tensor) -> Tensor:
        """What the ResNet sees, [N, channels[-1]], beside silence -> [N, dim]."""
        video = self.project(pictures)
        silent = torch.cat([torch.zeros_like(video), video], dim=-1)
        return self.dropout(self.fuse(self.fusion_norm(silent)))

    def _transform(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, T, dim], and which steps are real [B, T] -> [B, T, dim], of which the real steps count."""
        # B, T, D -> B, D, T; an even kernel gives one frame too many.
        position = F.gelu(self.position(x.transpose(1, 2))[..., :-1]).transpose(1, 2)
        x = self.dropout(x + position)
        attended = mask[:, None, None, :]
        for layer in self.layers:
            if not self.training or float(torch.rand(())) >= self.layer_drop:
                x = layer(x, attended)
        normed: Tensor = self.norm(x)
        return normed


class ResNet(nn.Module):
    """The stem over five frames, then two basic blocks a stage, and the mean over the picture."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(STEM_FRAMES, channels[0], 7, 2, 3, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.PReLU(channels[0]),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks = []
        for stage, width in enumerate(channels):
            below, stride = (width, 1) if stage == 0 else (channels[stage - 1], 2)
            blocks += [BasicBlock(below, width, stride)]
            blocks += [BasicBlock(width, width, 1) for _ in range(BLOCKS_PER_STAGE - 1)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        """[B, T, H, W] and which frames are real [B, T] -> [num_real, channels[-1]]."""
        stacked = with_neighbours(video.masked_fill(~mask[..., None, None], 0.0))
        clips, steps = mask.nonzero(as_tuple=True)
        # In training mode, batch norm has to see all frames at once.
        size = len(clips) if self.training else FRAMES_AT_ONCE
        parts = zip(clips.split(size), steps.split(size), strict=True)
        return torch.cat([self.means(stacked[part]) for part in parts])

    def means(self, stacked: Tensor) -> Tensor:
        """Frames with their neighbours [N, H, W, STEM_FRAMES] -> [N, channels[-1]]."""
        frames = stacked.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        means: Tensor = self.blocks(self.stem(frames)).mean(dim=(2, 3))
        return means


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a (projected) shortcut; a PReLU of its own after each."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.PReLU(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.PReLU(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.shortcut(x)
        x = self.relu1(self.norm1(self.conv1(x)))
        activated: Tensor = self.relu2(self.norm2(self.conv2(x)) + residual)
        return activated


class Layer(nn.Module):
    """A transformer layer that normalises first."""

    def __init__(self, config: AVHubertConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """[B, T, D], and which positions may be attended, [B, 1, 1, T] bool -> [B, T, D]."""
        x = x + self.dropout(self._attend(self.attention_norm(x), attended))
        hidden = F.gelu(self.fc1(self.ffn_norm(x)))
        widened: Tensor = x + self.dropout(self.fc2(hidden))
        return widened

    def _attend(self, x: Tensor, attended: Tensor) -> Tensor:
        # B, T, D -> B, heads, T, D / heads
        q, k, v = (
            proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout.p if self.training else 0.0
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=attended, dropout_p=dropout)
        mixed: Tensor = self.out_proj(heads.transpose(1, 2).flatten(2))
        return mixed
