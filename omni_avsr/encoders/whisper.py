"""The encoder of OpenAI's Whisper, any size: waveforms -> 50 features a second."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as TransformersWhisperEncoder

from omni_avsr.encoders.stored import check_model_type, load_strictly, read_tensors
from omni_avsr.features import HOP, MEL_FRAME_RATE, SAMPLE_RATE, log_mel_window, num_mel_frames
from omni_avsr.types import Features

Context = Literal["full", "trimmed"]
Length = Literal["covering", "published"]

_FEWEST_PUBLISHED = 25
"""Features that the published code keeps of the shortest clip."""

_CONV_STRIDE = 2
_CONV_REACH = 2
"""Mel frames behind a clip that its last feature can see through the two convolutions (kernel 3 each)."""


class WhisperEncoder(nn.Module):
    """Log-mel, two convolutions, transformer layers; keeps the contract of ``encoders.base.Encoder``.

    context "full": the clip stands in 30 s of silence, all of which is attended, as Whisper was trained; the features
        of the clip's own time are returned. The cost is that of 30 s whatever the clip's length.
    context "trimmed": only the clip's own positions are computed and attended. Behind the clip's end the convolutions
        still see silence, so only the attention differs from "full".

    The forward pass is deterministic apart from the dropout of ``config`` (zero in the released models); layer drop is
    not applied.
    """

    def __init__(self, config: WhisperConfig, context: Context = "full", length: Length = "covering") -> None:
        """Random weights; ``from_folder`` gives trained ones.

        Raises:
            ValueError: ``context`` is neither "full" nor "trimmed".
        """
        super().__init__()
        if context not in ("full", "trimmed"):
            raise ValueError(f'the context of Whisper is "full" or "trimmed", not "{context}"')
        self.context, self.length = context, length
        self.encoder = TransformersWhisperEncoder(config)
        self.num_mels = config.num_mel_bins
        self.num_positions = config.max_source_positions
        self.output_dim = config.d_model
        self.frame_rate = MEL_FRAME_RATE / _CONV_STRIDE
        self.max_seconds = _CONV_STRIDE * self.num_positions * HOP / SAMPLE_RATE

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        context: Context = "full",
        dtype: torch.dtype = torch.float32,
        length: Length = "covering",
    ) -> WhisperEncoder:
        """The encoder of a Whisper model saved in transformers' layout; the decoder's weights are not read.

        Args:
            folder: holds config.json and the weights.
            dtype: of the weights and the features; float32 also where the folder has float16.

        Raises:
            ValueError: the folder has no Whisper config, no weights, or other weights than the config asks for.
        """
        config = read_whisper_config(folder)
        with torch.device("meta"):
            encoder = cls(config, context, length)
        load_part(encoder.encoder, folder, "encoder.", dtype)
        return encoder.eval()

    def forward(self, inputs: Features) -> Features:
        """Encode waveforms [B, samples] at 16 kHz into Features [B, ceil(samples / 320), output_dim].

        With length "published" a clip has floor(samples / 320) features, as float32 has it, and 25 if it is shorter.

        Raises:
            ValueError: a clip is empty or longer than the context (30 s in the released models).
        """
        self._check(inputs.lengths)
        lengths = self.num_features(inputs.lengths)
        num_mel, num_positions = self.num_computed(inputs.lengths)
        attended = None
        if self.context == "trimmed":
            attended = torch.arange(num_positions, device=lengths.device) < lengths[:, None]
        values = self._encode(log_mel_window(inputs, num_mel, self.num_mels), num_positions, attended)
        features = Features(values[:, : int(lengths.max())], lengths)
        return Features(features.values.masked_fill(~features.mask()[..., None], 0.0), lengths)

    def num_features(self, num_samples: Tensor) -> Tensor:
        """Features of clips of ``num_samples`` samples."""
        if self.length == "published":
            # In float32, as there: of 1 to 1500 whole features, 66 come out one lower (on a CPU).
            return (num_samples.float() / SAMPLE_RATE * self.frame_rate).long().clamp(min=_FEWEST_PUBLISHED)
        return (num_mel_frames(num_samples) + _CONV_STRIDE - 1) // _CONV_STRIDE

    def num_computed(self, num_samples: Tensor) -> tuple[int, int]:
        """Log-mel frames and positions that are computed for each clip of a batch."""
        max_mel_frames = _CONV_STRIDE * self.num_positions
        if self.context == "full":
            return max_mel_frames, self.num_positions
        num_mel = int(num_mel_frames(num_samples).max()) + _CONV_REACH
        return min(num_mel, max_mel_frames), int(self.num_features(num_samples).max())

    def _encode(self, mel: Tensor, num_positions: int, attended: Tensor | None) -> Tensor:
        """mel [B, frames, mels] -> [B, num_positions, D]; attended [B, num_positions] bool, None when all are."""
        encoder = self.encoder
        hidden = mel.transpose(1, 2).to(encoder.conv1.weight.dtype)
        hidden = F.gelu(encoder.conv1(hidden))
        hidden = F.gelu(encoder.conv2(hidden)).transpose(1, 2)[:, :num_positions]
        # B, D, T -> B, P, D
        hidden = hidden + encoder.embed_positions.weight[:num_positions]
        hidden = F.dropout(hidden, p=encoder.dropout, training=self.training)
        mask = None if attended is None else additive_mask(attended[:, None, None, :], hidden.dtype)
        for layer in encoder.layers:
            hidden = layer(hidden, mask)
        return encoder.layer_norm(hidden)

    def _check(self, num_samples: Tensor) -> None:
        shortest, longest = int(num_samples.min()), int(num_samples.max())
        if shortest < 1:
            raise ValueError("a clip without samples cannot be encoded; drop it from the batch")
        if longest > self.max_seconds * SAMPLE_RATE:
            raise ValueError(
                f"a clip of {longest / SAMPLE_RATE:.2f} s is longer than Whisper's context of "
                f"{self.max_seconds:g} s; cut it into shorter clips"
            )


def additive_mask(attended: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where ``attended`` is true and the most negative number of ``dtype`` elsewhere, to add to attention scores."""
    return torch.zeros(attended.shape, dtype=dtype, device=attended.device).masked_fill(
        ~attended, torch.finfo(dtype).min
    )


def read_whisper_config(folder: Path) -> WhisperConfig:
    """The config.json of a Whisper folder.

    Raises:
        ValueError: there is none, or it is another model's.
    """
    check_model_type(folder, "whisper")
    return WhisperConfig.from_pretrained(folder)


def load_part(module: nn.Module, folder: Path, part: str, dtype: torch.dtype) -> None:
    """Fill ``module`` with the weights under ``part`` ("encoder." or "decoder.") of a Whisper folder, strictly.

    Args:
        module: may be on the meta device.
        dtype: of the loaded weights.

    Raises:
        ValueError: no weights in the folder, or names and shapes that differ from the module's.
    """
    stored = read_tensors(folder, dtype, (part, f"model.{part}"))
    state = {name.removeprefix("model.").removeprefix(part): value for name, value in stored.items()}
    load_strictly(module, state, f"the {part.rstrip('.')} weights in {folder}", dtype)
