"""What a stage minimises: batches in, loss and figures out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_avsr.compression import all_rates, draw_rates
from omni_avsr.encoders.build import SpeechEncoder
from omni_avsr.encoders.ctc import CTCHead, encode_text
from omni_avsr.encoders.whisper_decoder import WhisperDecoderObjective
from omni_avsr.model import OmniAVSR
from omni_avsr.types import IGNORE_INDEX, Batch, Clip, Features, Modality, Task

MAX_FRAME_WORDS = 1000


@dataclass(frozen=True)
class ObjectiveOutput:
    """What one micro-batch gave.

    loss: scalar, already divided by the totals of the global batch.
    figures: detached values worth logging; like the loss, the micro-batches of a step add up to the step's value.
    num_tokens: real tokens (encoder frames, or positions of the LLM) the loss was computed from.
    num_padded_tokens: the same with padding.
    """

    loss: Tensor
    figures: Mapping[str, Tensor]
    num_tokens: int
    num_padded_tokens: int


TASK_OF = {Modality.AUDIO: Task.ASR, Modality.VIDEO: Task.VSR}
"""The task whose clips and labels an objective on one modality trains on."""


class Objective(Protocol):
    """An ``nn.Module`` that owns the parameters which only training needs; the model is passed in."""

    def __call__(self, model: nn.Module, batch: Batch) -> ObjectiveOutput: ...

    def num_label_tokens(self, model: nn.Module, text: str) -> int:
        """How many labels a transcript is scored on."""
        ...

    def transcribe(self, model: nn.Module, batch: Batch) -> dict[str, list[str]]:
        """Texts of a validation batch by the name of the way they were read; empty for an objective without any."""
        ...


def encoder_of(model: nn.Module, modality: Modality) -> SpeechEncoder:
    """The encoder of a whole model, or of one whose LLM was not loaded (``build.Encoders``)."""
    encoder = model.get_submodule(f"encoders.{modality}")
    assert isinstance(encoder, SpeechEncoder)
    return encoder


class WordFrameTargets(nn.Module):
    """Predicts which word is spoken in each frame, from word times; helps CTC to find its alignment early.

    Classes: 0 is silence, then the training set's most frequent words. Frames of rarer words, and clips without word
    times, are not scored.
    """

    def __init__(self, encoder_dim: int, words: Sequence[str]) -> None:
        super().__init__()
        self.ids = {word: index + 1 for index, word in enumerate(words)}
        self.linear = nn.Linear(encoder_dim, len(words) + 1)

    @staticmethod
    def vocabulary(clips: Sequence[Clip]) -> list[str]:
        """The most frequent words that have times, most frequent first.

        Raises:
            ValueError: no clip has word times.
        """
        counts = Counter(word.text for clip in clips for word in clip.words)
        if not counts:
            raise ValueError("frame_targets=words needs word times, and no training clip has any; use none")
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return ranked[:MAX_FRAME_WORDS]

    def targets(self, clips: Sequence[Clip], features: Features, frame_rate: float) -> Tensor:
        """[B, T] class of each frame, by the frame's middle; IGNORE_INDEX where it is not scored."""
        targets = torch.full(features.values.shape[:2], IGNORE_INDEX, dtype=torch.int64)
        for row, (clip, length) in enumerate(zip(clips, features.lengths.tolist(), strict=True)):
            if not clip.words:
                continue
            targets[row, :length] = 0
            times = (torch.arange(length) + 0.5) / frame_rate
            for word in clip.words:
                inside = (times >= word.start) & (times < word.end)
                targets[row, :length][inside] = self.ids.get(word.text, IGNORE_INDEX)
        return targets.to(features.values.device)

    def loss(self, clips: Sequence[Clip], features: Features, frame_rate: float) -> Tensor:
        """Mean cross entropy over the scored frames of each clip [B]."""
        targets = self.targets(clips, features, frame_rate)
        logits = self.linear(features.values).float()
        losses = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORE_INDEX, reduction="none")
        return losses.sum(1) / (targets != IGNORE_INDEX).sum(1).clamp(min=1)


class CTCObjective(nn.Module):
    """CTC on characters for one encoder, in nats per character, with optional frame targets beside it."""

    def __init__(self, modality: Modality, frames: WordFrameTargets | None, frame_weight: float) -> None:
        super().__init__()
        self.modality, self.frames, self.frame_weight = modality, frames, frame_weight

    def forward(self, model: nn.Module, batch: Batch) -> ObjectiveOutput:
        encoder, head = self._parts(model)
        features = encoder(batch.inputs[self.modality])
        ctc = head.loss(features, batch.texts).sum() / batch.num_label_tokens[TASK_OF[self.modality]]
        figures = {"ctc": ctc.detach()}
        loss = ctc
        if self.frames is not None:
            frame = self.frames.loss(batch.clips, features, encoder.frame_rate).sum() / batch.num_clips
            figures["frame"] = frame.detach()
            loss = loss + self.frame_weight * frame
        return ObjectiveOutput(loss, figures, int(features.lengths.sum()), features.mask().numel())

    def num_label_tokens(self, model: nn.Module, text: str) -> int:
        return len(encode_text(text))

    def transcribe(self, model: nn.Module, batch: Batch) -> dict[str, list[str]]:
        encoder, head = self._parts(model)
        return {f"{self.modality}_ctc": head.transcribe(encoder(batch.inputs[self.modality]))}

    def _parts(self, model: nn.Module) -> tuple[SpeechEncoder, CTCHead]:
        encoder = encoder_of(model, self.modality)
        if encoder.ctc is None:
            raise ValueError(f"the {self.modality} encoder carries no CTC head; set its ctc to true")
        return encoder, encoder.ctc


class DecoderObjective(nn.Module):
    """Whisper's own decoder scores its encoder (EFIN, stage 1); the decoder stays frozen and out of the model."""

    def __init__(self, decoder: WhisperDecoderObjective) -> None:
        super().__init__()
        self.decoder = decoder.requires_grad_(False)

    def forward(self, model: nn.Module, batch: Batch) -> ObjectiveOutput:
        features = encoder_of(model, Modality.AUDIO)(batch.inputs[Modality.AUDIO])
        summed, _ = self.decoder(features, batch.texts)
        loss = summed / batch.num_label_tokens[Task.ASR]
        return ObjectiveOutput(loss, {"decoder": loss.detach()}, int(features.lengths.sum()), features.mask().numel())

    def num_label_tokens(self, model: nn.Module, text: str) -> int:
        return self.decoder.num_tokens([text])

    def transcribe(self, model: nn.Module, batch: Batch) -> dict[str, list[str]]:
        return {}


class RecognitionObjective(nn.Module):
    """All tasks through the LLM at one drawn pair of rates (Omni-AVSR 1.3, 1.4)."""

    def __init__(self, task_weights: Mapping[Task, float], seed: int, max_new_tokens: int) -> None:
        super().__init__()
        self.task_weights, self.seed, self.max_new_tokens = task_weights, seed, max_new_tokens

    def forward(self, model: nn.Module, batch: Batch) -> ObjectiveOutput:
        assert isinstance(model, OmniAVSR)
        rates = draw_rates(model.config.compression, self.seed, batch.step)
        # Divided by the stage's number of tasks, not by what this batch supports: the sum over the tasks is the loss.
        share = {task: weight / len(self.task_weights) for task, weight in self.task_weights.items()}
        weights = {task: weight for task, weight in share.items() if batch.supports(task)}
        features = batch.features or model.encode(batch.inputs)
        output = model.loss(features, batch.texts, rates, weights, batch.num_label_tokens)
        # A task that this batch lacks counts zero, so that all ranks sum up the same figures.
        nothing = torch.zeros_like(output.loss.detach())
        figures = {f"{task}_loss": output.task_losses.get(task, nothing) for task in self.task_weights}
        figures["loss"] = output.loss.detach()
        return ObjectiveOutput(output.loss, figures, output.num_llm_tokens, output.num_padded_tokens)

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
            for task in self.task_weights
            for pair in (rates[0], rates[-1])
            if batch.supports(task)
        }
