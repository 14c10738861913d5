"""The compact audio encoder: log-mel to 50 features a second, a few million parameters, trainable on a CPU."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from omni_avsr.config import CompactAudioConfig
from omni_avsr.encoders.fronts import LogMelFront
from omni_avsr.encoders.trunk import Trunk
from omni_avsr.features import NUM_MELS, log_mel
from omni_avsr.types import Features


class CompactAudioEncoder(nn.Module):
    """Two masked convolutions that halve the 100 Hz log-mel, then the trunk. Keeps the ``Encoder`` contract."""

    front = LogMelFront()
    frame_rate, max_seconds = front.frame_rate, front.max_seconds

    def __init__(self, config: CompactAudioConfig) -> None:
        super().__init__()
        self.config = config
        self.output_dim = config.dim
        self.conv1 = nn.Conv1d(NUM_MELS, config.dim, 3, padding=1)
        self.conv2 = nn.Conv1d(config.dim, config.dim, 3, stride=2, padding=1)
        self.dropout = nn.Dropout(config.dropout)
        self.trunk = Trunk(config.dim, config.num_layers, config.num_heads, config.kernel, config.dropout)

    def forward(self, inputs: Features) -> Features:
        """[B, samples] waveforms at 16 kHz -> [B, T, dim], T = ceil(10 ms frames / 2)."""
        self.front.check(inputs.lengths)
        return self._encode(log_mel(inputs), self.front.num_features(inputs.lengths))

    def encode_clip(self, values: Tensor) -> Tensor:
        """Log-mel [1, frames, 80] of one clip -> [1, ceil(frames / 2), dim]."""
        mel = Features.whole(values)
        return self._encode(mel, (mel.lengths + 1) // 2).values

    def _encode(self, mel: Features, lengths: Tensor) -> Features:
        """Log-mel [B, frames, 80] -> [B, T, dim] of ``lengths``."""
        hidden = F.gelu(self.conv1(mel.values.transpose(1, 2))).transpose(1, 2)
        hidden = F.gelu(self.conv2(_masked(hidden, mel.lengths).transpose(1, 2))).transpose(1, 2)
        return self.trunk(Features(self.dropout(_masked(hidden, lengths)), lengths))


def _masked(values: Tensor, lengths: Tensor) -> Tensor:
    return values.masked_fill(~Features(values, lengths).mask()[..., None], 0.0)
