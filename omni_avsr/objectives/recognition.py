"""Train through the LLM, all tasks at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from omni_avsr.compression import all_rates, draw_rates
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.base import LabelUnit, ObjectiveOutput
from omni_avsr.objectives.conflict import with_conflicts
from omni_avsr.stages import RecognitionObjectiveConfig
from omni_avsr.types import Batch, Features, Modality, Task


class RecognitionObjective(nn.Module):
    """All tasks through the LLM at one drawn pair of rates (Omni-AVSR 1.3, 1.4)."""

    label_unit: LabelUnit = "tokens"

    def __init__(self, config: RecognitionObjectiveConfig, seed: int, max_new_tokens: int) -> None:
        """max_new_tokens: longest text that is written in validation."""
        super().__init__()
        self.config, self.seed, self.max_new_tokens = config, seed, max_new_tokens

    def forward(self, model: nn.Module, batch: Batch) -> ObjectiveOutput:
        assert isinstance(model, OmniAVSR)
        rates = draw_rates(model.config.compression, self.seed, batch.step)
        # Divided by the stage's number of tasks, not by what this batch supports: the sum over the tasks is the loss.
        share = {task: weight / len(self.config.task_weights) for task, weight in self.config.task_weights.items()}
        weights = {task: weight for task, weight in share.items() if batch.supports(task)}
        num_label_tokens: Mapping[Task, int] | None = batch.num_label_tokens
        if self.config.averaging == "clips":
            num_label_tokens = None
            if self.training:
                weights = {task: weight / batch.num_clips for task, weight in weights.items()}
        features = batch.features or model.encode(batch.inputs)
        changed = {Task.AVSR: self._conflicting(model, features, batch)} if Task.AVSR in weights else {}
        output = model.loss(features, batch.texts, rates, weights, num_label_tokens, changed, self.config.score_padding)
        # A task that this batch lacks counts zero, so that all ranks sum up the same figures.
        nothing = torch.zeros_like(output.loss.detach())
        figures = {f"{task}_loss": output.task_losses.get(task, nothing) for task in self.config.task_weights}
        figures["loss"] = output.loss.detach()
        return ObjectiveOutput(output.loss, figures, output.num_llm_tokens, output.num_padded_tokens)

    def _conflicting(
        self, model: OmniAVSR, features: Mapping[Modality, Features], batch: Batch
    ) -> Mapping[Modality, Features]:
        """What AVSR reads in training: the same features, with moments of another clip's video if so configured."""
        if self.config.conflict is None or not self.training:
            return features
        longest = max(1, round(self.config.conflict.seconds * model.frame_rates[Modality.VIDEO]))
        shares = [self.config.conflict.share] * len(batch)
        if (lowest := self.config.conflict.min_snr_db) is not None:
            shares = [self.config.conflict.share if level >= lowest else 0.0 for level in batch.snr_db]
        video = with_conflicts(features[Modality.VIDEO], batch.clips, shares, longest, self.seed, batch.step)
        return {**features, Modality.VIDEO: video}

    def num_label_tokens(self, model: nn.Module, text: str) -> int:
        assert isinstance(model, OmniAVSR)
        return len(model.text.encode(text)) + 1

    def transcribe(self, model: nn.Module, batch: Batch) -> dict[str, list[str]]:
        """Greedy texts of every task at its lowest and its highest trained rates."""
        assert isinstance(model, OmniAVSR)
        features, rates = batch.features or model.encode(batch.inputs), all_rates(model.config.compression)
        return {
            f"{task}_{pair.label(task).replace(',', '_')}": model.generate(
                features, task, pair, max_new_tokens=self.max_new_tokens
            )
            for task in self.config.task_weights
            for pair in (rates[0], rates[-1])
            if batch.supports(task)
        }
