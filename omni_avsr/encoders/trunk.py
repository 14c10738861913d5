"""The temporal trunk of the compact encoders: transformer layers with a depthwise convolution, masked throughout."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_avsr.types import Features

ROTARY_BASE = 10_000.0


def rotate(x: Tensor) -> Tensor:
    """Rotary position embedding of queries or keys [B, heads, T, head_dim]: attention sees relative time."""
    half = x.shape[-1] // 2
    frequencies = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)[:, None] * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class SelfAttention(nn.Module):
    """Multi-head self-attention over the real steps of each row."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(f"trunk dim {dim} must be a multiple of twice the {num_heads} attention heads")
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, time, dim = x.shape
        qkv = self.qkv(x).view(batch, time, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            rotate(query), rotate(key), value, attn_mask=mask[:, None, None, :], dropout_p=dropout
        )
        return self.out(attended.transpose(1, 2).reshape(batch, time, dim))


class ConvModule(nn.Module):
    """Gated depthwise convolution over time (after the conformer); padding is zeroed so that it never leaks in."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"convolution kernel must be odd to keep time aligned, got {kernel}")
        self.expand = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        gated = F.glu(self.expand(x), dim=-1).masked_fill(~mask[..., None], 0.0)
        mixed = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        return self.out(F.silu(self.norm(mixed)))


class TrunkLayer(nn.Module):
    """Pre-norm convolution, attention and feed-forward, each with a residual."""

    def __init__(self, dim: int, num_heads: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.conv_norm, self.conv = nn.LayerNorm(dim), ConvModule(dim, kernel)
        self.attention_norm, self.attention = nn.LayerNorm(dim), SelfAttention(dim, num_heads, dropout)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.conv(self.conv_norm(x), mask))
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return x + self.dropout(self.feed_forward(x))


class Trunk(nn.Module):
    """A stack of ``TrunkLayer`` with a final layer norm; [B, T, dim] -> [B, T, dim], zeros behind each length."""

    def __init__(self, dim: int, num_layers: int, num_heads: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TrunkLayer(dim, num_heads, kernel, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Features) -> Features:
        x, mask = features.values, features.mask()
        for layer in self.layers:
            x = layer(x, mask)
        return Features(self.norm(x).masked_fill(~mask[..., None], 0.0), features.lengths)
