"""The encoder of OpenAI's Whisper, any size: waveforms -> 50 features a second."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as TransformersWhisperEncoder

from omni_avsr.encoders.fronts import Context, Length, WhisperFront
from omni_avsr.encoders.stored import check_model_type, load_strictly, read_tensors
from omni_avsr.features import log_mel_window
from omni_avsr.types import Features


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
        self.front = WhisperFront(config.num_mel_bins, config.max_source_positions, context, length)
        self.encoder = TransformersWhisperEncoder(config)
        self.output_dim = config.d_model
        self.frame_rate, self.max_seconds = self.front.frame_rate, self.front.max_seconds

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
        self.front.check(inputs.lengths)
        lengths = self.front.num_features(inputs.lengths)
        num_mel, num_positions = self.front.num_computed(inputs.lengths)
        attended = None
        if self.front.context == "trimmed":
            attended = torch.arange(num_positions, device=lengths.device) < lengths[:, None]
        values = self._encode(log_mel_window(inputs, num_mel, self.front.num_mels), num_positions, attended)
        features = Features(values[:, : int(lengths.max())], lengths)
        return Features(features.values.masked_fill(~features.mask()[..., None], 0.0), lengths)

    def encode_clip(self, values: Tensor) -> Tensor:
        """Log-mel [1, 2 P + 1, mels] of one clip, as ``front.clip_input`` gives it -> [1, P, output_dim].

        With context "full", P is of the whole window: the clip's own features are the first ``front.num_features``.
        """
        return self._encode(values, (values.shape[1] - 1) // 2, None)

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
