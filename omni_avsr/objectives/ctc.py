"""Train an encoder alone by CTC."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from omni_avsr.encoders.access import ctc_parts
from omni_avsr.encoders.ctc import encode_text
from omni_avsr.objectives.base import LabelUnit, ObjectiveOutput
from omni_avsr.objectives.frame_targets import FrameTargets
from omni_avsr.objectives.mixup import mix
from omni_avsr.stages import MixupConfig
from omni_avsr.types import Batch, Features, Modality, Task, Workload, lengths_of

TASK_OF = {Modality.AUDIO: Task.ASR, Modality.VIDEO: Task.VSR}
"""The task whose clips and labels an objective on one modality trains on."""


class CTCObjective(nn.Module):
    """CTC on characters for one encoder, in nats per character, with optional frame targets beside it.

    frames: targets by name. frame_weights: of their losses. seed: of the draws of ``mixup``, which only training has.
    """

    label_unit: LabelUnit = "characters"

    def __init__(
        self,
        modality: Modality,
        frames: Mapping[str, nn.Module] | None = None,
        frame_weights: Mapping[str, float] | None = None,
        mixup: MixupConfig | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.modality, self.frame_weights = modality, dict(frame_weights or {})
        self.frames = nn.ModuleDict(frames or {})
        self.mixup, self.seed = mixup, seed

    def forward(self, model: nn.Module, batch: Batch) -> ObjectiveOutput:
        encoder, _ = ctc_parts(model, self.modality)
        if self.mixup is None or not self.training:
            inputs, num_readings = batch.inputs[self.modality], 1
            features = encoder(inputs)
            figures = self._losses(model, batch, features, torch.ones(len(batch)))
        else:
            mixed = mix(batch, self.modality, self.mixup.share, self.mixup.weight, self.seed)
            inputs, num_readings = mixed.inputs, 2
            features = encoder(inputs)
            figures = self._losses(model, batch, features, 1 - mixed.weights)
            for name, loss in self._losses(model, mixed.other, features, mixed.weights).items():
                figures[name] = figures[name] + loss
        loss = figures["ctc"] + sum(weight * figures[name] for name, weight in self.frame_weights.items())
        figures = {name: value.detach() for name, value in figures.items()}
        work = Workload(
            lengths_of({**batch.inputs, self.modality: inputs}),
            torch.tensor([self.num_label_tokens(model, text) for text in batch.texts]),
            num_readings=num_readings,
        )
        return ObjectiveOutput(loss, figures, int(features.lengths.sum()), features.mask().numel(), work)

    def _losses(self, model: nn.Module, batch: Batch, features: Features, weights: Tensor) -> dict[str, Tensor]:
        """The losses by name, each clip's by its weight."""
        _, head = ctc_parts(model, self.modality)
        weights = weights.to(features.values.device)
        ctc = head.loss(features, batch.texts) * weights
        losses = {"ctc": ctc.sum() / batch.num_label_tokens[TASK_OF[self.modality]]}
        for name, targets in self.frames.items():
            assert isinstance(targets, FrameTargets)
            frame = targets.loss(model, batch, features, self.modality) * weights
            losses[name] = frame.sum() / batch.num_clips
        return losses

    def num_label_tokens(self, model: nn.Module, text: str) -> int:
        return len(encode_text(text))

    def transcribe(self, model: nn.Module, batch: Batch) -> dict[str, list[str]]:
        encoder, head = ctc_parts(model, self.modality)
        return {f"{self.modality}_ctc": head.transcribe(encoder(batch.inputs[self.modality]))}
