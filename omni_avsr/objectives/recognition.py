"""Train through the LLM, all tasks at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from omni_avsr.compression import all_rates, draw_rates, task_rates
from omni_avsr.config import CompressionConfig
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.base import LabelUnit, ObjectiveOutput
from omni_avsr.objectives.conflict import with_conflicts
from omni_avsr.stages import RecognitionObjectiveConfig
from omni_avsr.types import Batch, Features, Modality, Rates, Task, Workload, lengths_of


def step_passes(
    config: RecognitionObjectiveConfig, compression: CompressionConfig, seed: int, step: int
) -> dict[Rates, dict[Task, int]]:
    """The LLM passes of a step: for each pair of rates its tasks, and at how many pairs that task is read in all."""
    if config.rates == "drawn":
        return {draw_rates(compression, seed, step): dict.fromkeys(config.task_weights, 1)}
    pairs = {task: task_rates(compression, task) for task in config.task_weights}
    found = {r: {task: len(own) for task, own in pairs.items() if r in own} for r in all_rates(compression)}
    return {rates: tasks for rates, tasks in found.items() if tasks}


class RecognitionObjective(nn.Module):
    """All tasks through the LLM, at one drawn pair of rates (Omni-AVSR 1.3, 1.4) or at all of them."""

    label_unit: LabelUnit = "tokens"

    def __init__(self, config: RecognitionObjectiveConfig, seed: int, max_new_tokens: int) -> None:
        """max_new_tokens: longest text that is written in validation."""
        super().__init__()
        self.config, self.seed, self.max_new_tokens = config, seed, max_new_tokens

    def forward(self, model: nn.Module, batch: Batch) -> ObjectiveOutput:
        assert isinstance(model, OmniAVSR)
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
        passes = step_passes(self.config, model.config.compression, self.seed, batch.step)
        total = torch.zeros((), device=model.device)
        # A task that this batch lacks counts zero, so that all ranks sum up the same figures.
        figures = {f"{task}_loss": torch.zeros_like(total) for task in self.config.task_weights}
        num_tokens = num_padded = 0
        for rates, tasks in passes.items():
            shares = {task: weights[task] / num for task, num in tasks.items() if task in weights}
            output = model.loss(
                features, batch.texts, rates, shares, num_label_tokens, changed, self.config.score_padding
            )
            total = total + output.loss
            for task, loss in output.task_losses.items():
                figures[f"{task}_loss"] += loss / tasks[task]
            num_tokens += output.num_llm_tokens
            num_padded += output.num_padded_tokens
        figures["loss"] = total.detach()
        num_labels = torch.tensor([self.num_label_tokens(model, text) for text in batch.texts])
        run = {rates: tuple(task for task in tasks if task in weights) for rates, tasks in passes.items()}
        work = Workload(lengths_of(batch.inputs), num_labels, lengths_of(batch.features), run)
        return ObjectiveOutput(total, figures, num_tokens, num_padded, work)

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
