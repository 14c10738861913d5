"""Train a Whisper encoder alone through its own decoder."""

from __future__ import annotations

import torch
from torch import nn

from omni_avsr.encoders.access import encoder_of
from omni_avsr.encoders.whisper_decoder import WhisperDecoderObjective
from omni_avsr.objectives.base import LabelUnit, ObjectiveOutput
from omni_avsr.types import Batch, Modality, Task, Workload, lengths_of


class DecoderObjective(nn.Module):
    """Whisper's own decoder scores its encoder (EFIN, stage 1); the decoder stays frozen and out of the model."""

    label_unit: LabelUnit = "tokens"

    def __init__(self, decoder: WhisperDecoderObjective) -> None:
        super().__init__()
        self.decoder = decoder.requires_grad_(False)

    def forward(self, model: nn.Module, batch: Batch) -> ObjectiveOutput:
        features = encoder_of(model, Modality.AUDIO)(batch.inputs[Modality.AUDIO])
        summed, _ = self.decoder(features, batch.texts)
        loss = summed / batch.num_label_tokens[Task.ASR]
        num_labels = torch.tensor([self.num_label_tokens(model, text) for text in batch.texts])
        work = Workload(lengths_of(batch.inputs), num_labels)
        num_tokens, num_padded = int(features.lengths.sum()), features.mask().numel()
        return ObjectiveOutput(loss, {"decoder": loss.detach()}, num_tokens, num_padded, work)

    def num_label_tokens(self, model: nn.Module, text: str) -> int:
        return self.decoder.num_tokens([text])

    def transcribe(self, model: nn.Module, batch: Batch) -> dict[str, list[str]]:
        return {}
