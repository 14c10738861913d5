"""wav2vec 2.0, HuBERT and WavLM, any size: waveforms -> about 50 features a second."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    HubertModel,
    PreTrainedConfig,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMModel,
)

from omni_avsr.encoders.fronts import WaveformFront
from omni_avsr.encoders.stored import check_model_type, load_strictly, read_tensors
from omni_avsr.features import SAMPLE_RATE
from omni_avsr.types import Features

MODELS: dict[str, type[Wav2Vec2Model | HubertModel | WavLMModel]] = {
    "wav2vec2": Wav2Vec2Model,
    "hubert": HubertModel,
    "wavlm": WavLMModel,
}
"""By transformers' model type, which is also what each model's tensors are called after in a model with a head."""

_MASK_VECTOR = "masked_spec_embed"
"""What stands for masked features in pretraining."""
_REFUSED = {
    "add_adapter": "convolutions behind the transformer, which change the frame rate",
    "conv_pos_batch_norm": "batch norm before the positional convolution, which would see the padding of a batch",
}


class SelfSupervisedEncoder(nn.Module):
    """Convolutions over the waveform, then a transformer; keeps the contract of ``encoders.base.Encoder``.

    The convolutions run clip by clip. In the base models ("feat_extract_norm": "group") the first one is normalised
    over time, so padding would change its statistics. In all of them the convolutions make thousands of steps a second,
    so that one clip keeps a device busy, and none is spent on padding. The transformer runs on the batch: what stands
    behind a clip is zero before the positional convolution, as behind a clip alone, and is not attended.

    The model's own masking of features in training and its layer drop are never applied. So the forward pass is
    deterministic in eval mode, and apart from the dropout of ``config`` in training mode.
    """

    def __init__(self, config: PreTrainedConfig, normalize: bool) -> None:
        """Random weights; ``from_folder`` gives trained ones.

        Args:
            config: of one of ``MODELS``.
            normalize: bring each clip to mean 0 and variance 1 before anything else.

        Raises:
            ValueError: the model has a part that is not supported here.
        """
        super().__init__()
        settings = config.to_dict()
        if refused := [f"{name} ({what})" for name, what in _REFUSED.items() if settings.get(name)]:
            raise ValueError(f"this {config.model_type} model is not supported: it has {' and '.join(refused)}")
        config = deepcopy(config)
        # Without masking there is no mask vector either, which would be a parameter that nothing trains.
        config.update({"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0})
        self.model = MODELS[config.model_type](config)  # type: ignore[arg-type]  # the config's type says which it is
        self.front = WaveformFront(normalize, tuple(config.conv_kernel), tuple(config.conv_stride))
        self.output_dim = config.hidden_size
        self.frame_rate, self.max_seconds = self.front.frame_rate, self.front.max_seconds

    @classmethod
    def from_folder(cls, folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> SelfSupervisedEncoder:
        """The encoder of a model saved in transformers' layout, with or without a head, which is not read.

        Args:
            folder: holds config.json, preprocessor_config.json and the weights.
            kind: which of ``MODELS`` it is.
            dtype: of the weights and the features; float32 also where the folder has float16.

        Raises:
            ValueError: the folder is another model's, lacks one of these files, or has other weights than the config
                asks for.
        """
        check_model_type(folder, kind)
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            encoder = cls(config, reads_normalized(folder))
        stored = read_tensors(folder, dtype)
        own = {name.removeprefix(f"{kind}."): value for name, value in stored.items() if name.startswith(f"{kind}.")}
        state = {name: value for name, value in (own or stored).items() if name != _MASK_VECTOR}
        load_strictly(encoder.model, state, f"the weights in {folder}", dtype)
        return encoder.eval()

    def forward(self, inputs: Features) -> Features:
        """Encode waveforms [B, samples] at 16 kHz into Features [B, T, output_dim].

        In the released models T = floor((samples - 400) / 320) + 1. A clip shorter than the receptive field is
        followed by silence up to it, and has one feature.

        Raises:
            ValueError: a clip is empty.
        """
        self.front.check(inputs.lengths)
        clips = zip(inputs.values, inputs.lengths.tolist(), strict=True)
        rows = [self._convolve(self.front.clip_input(row[:length]))[0] for row, length in clips]
        local = Features.pad(rows).to(inputs.values.device)
        # It sets zeros where the mask is false, first of all.
        hidden = self._transform(local.values, local.mask())
        return Features(hidden.masked_fill(~local.mask()[..., None], 0.0), local.lengths)

    def encode_clip(self, values: Tensor) -> Tensor:
        """[1, samples] of one clip, as ``front.clip_input`` gives it -> [1, T, output_dim]."""
        return self._transform(self._convolve(values), None)

    def _convolve(self, waveform: Tensor) -> Tensor:
        """[1, samples] of one clip -> [1, T, channels]."""
        hidden = waveform.to(self.model.dtype)[:, None]
        for layer in self.model.feature_extractor.conv_layers:
            hidden = layer(hidden)
        return hidden.transpose(1, 2)

    def _transform(self, local: Tensor, mask: Tensor | None) -> Tensor:
        """[B, T, channels], and which steps are real [B, T] (None: all) -> [B, T, output_dim]."""
        projected = self.model.feature_projection(local)
        # Beside the projection, all but HuBERT's give what a quantizer would read.
        hidden = projected if isinstance(projected, Tensor) else projected[0]
        transformed: Tensor = self.model.encoder(hidden, attention_mask=mask).last_hidden_state
        return transformed


def reads_normalized(folder: Path) -> bool:
    """Whether the model of ``folder`` was trained on clips of mean 0 and variance 1: ``do_normalize``.

    There is no default, since a wrong one would go unnoticed: released models differ, and not by what config.json
    tells.

    Raises:
        ValueError: the folder does not tell, or the model hears another sample rate than 16 kHz.
    """
    try:
        extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    except OSError as error:
        raise ValueError(
            f"{folder} has no preprocessor_config.json, which tells whether the model's waveforms are normalised; copy "
            'it from where the model comes from, or write {"do_normalize": true} (or false) into it'
        ) from error
    if extractor.sampling_rate != SAMPLE_RATE:
        raise ValueError(f"the model in {folder} hears {extractor.sampling_rate} Hz, not {SAMPLE_RATE} Hz")
    return extractor.do_normalize
