"""Train an encoder alone by CTC."""

from __future__ import annotations

from torch import nn

from omni_avsr.encoders.ctc import encode_text
from omni_avsr.objectives.base import LabelUnit, ObjectiveOutput, ctc_parts
from omni_avsr.objectives.frame_targets import FrameTargets
from omni_avsr.types import Batch, Modality, Task

TASK_OF = {Modality.AUDIO: Task.ASR, Modality.VIDEO: Task.VSR}
"""The task whose clips and labels an objective on one modality trains on."""


class CTCObjective(nn.Module):
    """CTC on characters for one encoder, in nats per character, with optional frame targets beside it."""

    label_unit: LabelUnit = "characters"

    def __init__(self, modality: Modality, frames: FrameTargets | None, frame_weight: float) -> None:
        super().__init__()
        self.modality, self.frames, self.frame_weight = modality, frames, frame_weight

    def forward(self, model: nn.Module, batch: Batch) -> ObjectiveOutput:
        encoder, head = ctc_parts(model, self.modality)
        features = encoder(batch.inputs[self.modality])
        ctc = head.loss(features, batch.texts).sum() / batch.num_label_tokens[TASK_OF[self.modality]]
        figures = {"ctc": ctc.detach()}
        loss = ctc
        if self.frames is not None:
            frame = self.frames.loss(model, batch, features, self.modality).sum() / batch.num_clips
            figures["frame"] = frame.detach()
            loss = loss + self.frame_weight * frame
        return ObjectiveOutput(loss, figures, int(features.lengths.sum()), features.mask().numel())

    def num_label_tokens(self, model: nn.Module, text: str) -> int:
        return len(encode_text(text))

    def transcribe(self, model: nn.Module, batch: Batch) -> dict[str, list[str]]:
        encoder, head = ctc_parts(model, self.modality)
        return {f"{self.modality}_ctc": head.transcribe(encoder(batch.inputs[self.modality]))}
