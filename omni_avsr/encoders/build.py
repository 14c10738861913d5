"""Encoder settings -> encoder, with its CTC head when it carries one."""

from __future__ import annotations

from torch import nn

from omni_avsr.config import CompactAudioConfig, CompactVideoConfig, WhisperConfig
from omni_avsr.encoders.base import Encoder
from omni_avsr.encoders.compact_audio import CompactAudioEncoder
from omni_avsr.encoders.compact_video import CompactVideoEncoder
from omni_avsr.encoders.ctc import CTCHead
from omni_avsr.encoders.whisper import WhisperEncoder
from omni_avsr.types import Features
from omni_avsr.weights import check_sha256, resolve


class SpeechEncoder(nn.Module):
    """An encoder and its optional CTC head; keeps the ``Encoder`` contract itself."""

    def __init__(self, encoder: Encoder, has_ctc: bool) -> None:
        super().__init__()
        assert isinstance(encoder, nn.Module)
        self.encoder = encoder
        self.output_dim, self.frame_rate = encoder.output_dim, encoder.frame_rate
        self.max_seconds = encoder.max_seconds
        self.ctc = CTCHead(encoder.output_dim) if has_ctc else None

    def forward(self, inputs: Features) -> Features:
        return self.encoder(inputs)


def build_encoder(config: WhisperConfig | CompactAudioConfig | CompactVideoConfig) -> SpeechEncoder:
    """Build the encoder that ``config`` describes; Whisper's weights are read, a compact encoder starts random."""
    encoder: Encoder
    match config:
        case WhisperConfig():
            weights = resolve(config.weights)
            check_sha256(weights, config.sha256)
            encoder = WhisperEncoder.from_folder(weights.path, config.context)
        case CompactAudioConfig():
            encoder = CompactAudioEncoder(config)
        case CompactVideoConfig():
            encoder = CompactVideoEncoder(config)
    return SpeechEncoder(encoder, config.ctc)
