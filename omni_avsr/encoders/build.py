"""Encoder settings -> encoder, with its CTC head when it carries one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from omni_avsr.config import (
    AnyEncoderConfig,
    AVHubertConfig,
    CompactAudioConfig,
    CompactVideoConfig,
    PretrainedEncoderConfig,
    SelfSupervisedConfig,
    WhisperConfig,
)
from omni_avsr.encoders.avhubert import AVHubertEncoder
from omni_avsr.encoders.avhubert_weights import load_avhubert
from omni_avsr.encoders.base import Encoder
from omni_avsr.encoders.compact_audio import CompactAudioEncoder
from omni_avsr.encoders.compact_video import CompactVideoEncoder
from omni_avsr.encoders.ctc import CTCHead
from omni_avsr.encoders.lora import add_lora
from omni_avsr.encoders.self_supervised import SelfSupervisedEncoder
from omni_avsr.encoders.whisper import WhisperEncoder
from omni_avsr.types import Features
from omni_avsr.weights import check_sha256, resolve


class SpeechEncoder(nn.Module):
    """An encoder and its optional CTC head; keeps the ``Encoder`` contract itself."""

    _like: Tensor

    def __init__(self, encoder: Encoder, has_ctc: bool) -> None:
        super().__init__()
        assert isinstance(encoder, nn.Module)
        self.encoder = encoder
        self.output_dim, self.frame_rate = encoder.output_dim, encoder.frame_rate
        self.max_seconds = encoder.max_seconds
        self.ctc = CTCHead(encoder.output_dim) if has_ctc else None
        # Holds nothing but a dtype, which follows when a whole model is cast (bf16-true).
        self.register_buffer("_like", torch.empty(0), persistent=False)

    def forward(self, inputs: Features) -> Features:
        """As ``Encoder`` says; the features are float32 whatever the dtype of a frozen encoder inside."""
        features: Features = self.encoder(inputs)
        return Features(features.values.to(self._like.dtype), features.lengths)


def build_encoder(config: AnyEncoderConfig) -> SpeechEncoder:
    """Build the encoder that ``config`` describes; a base model's weights are read, all others start random."""
    encoder: Encoder
    match config:
        case WhisperConfig():
            folder = _weights(config, config.weights)
            encoder = WhisperEncoder.from_folder(folder, config.context, _dtype(config), config.length)
        case SelfSupervisedConfig():
            encoder = SelfSupervisedEncoder.from_folder(_weights(config, config.weights), config.kind, _dtype(config))
        case AVHubertConfig(weights=None):
            encoder = AVHubertEncoder(config).to(_dtype(config))
        case AVHubertConfig(weights=str(weights)):
            encoder = load_avhubert(_weights(config, weights), config, _dtype(config))
        case CompactAudioConfig():
            encoder = CompactAudioEncoder(config)
        case CompactVideoConfig():
            encoder = CompactVideoEncoder(config)
    if isinstance(encoder, AVHubertEncoder) and isinstance(config, AVHubertConfig) and config.lora is not None:
        add_lora(encoder, config.lora, ("q_proj", "v_proj"))
    return SpeechEncoder(encoder, config.ctc)


def _dtype(config: PretrainedEncoderConfig) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, config.dtype)
    return dtype


def _weights(config: PretrainedEncoderConfig, reference: str) -> Path:
    weights = resolve(reference)
    check_sha256(weights, config.sha256)
    return weights.path
