"""The types that flow through omni_avsr: every arrow of the data flow is one of them.

``Clip -> Example -> Batch -> Features -> compressed, projected Features -> Sequence -> StepOutput | Hypothesis``
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor

MATCHED = "matched"
"""The condition of a clip whose audio and video belong together; others are compared with it."""

IGNORE_INDEX = -100
"""Label of a position that is not scored (torch's cross entropy default)."""


class Modality(StrEnum):
    """A kind of input; the order of the members is their order in the sequence (audio before video)."""

    AUDIO = "audio"
    VIDEO = "video"


class Task(StrEnum):
    """Audio, visual and audio-visual speech recognition (Omni-AVSR, section 1)."""

    ASR = "asr"
    VSR = "vsr"
    AVSR = "avsr"

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The inputs the task reads, in the order they stand in the sequence."""
        return _TASK_MODALITIES[self]


_TASK_MODALITIES = {
    Task.ASR: (Modality.AUDIO,),
    Task.VSR: (Modality.VIDEO,),
    Task.AVSR: (Modality.AUDIO, Modality.VIDEO),
}


@dataclass(frozen=True, order=True)
class Rates:
    """Compression rates: how many encoder frames become one token of the LLM, per modality."""

    audio: int
    video: int

    def of(self, modality: Modality) -> int:
        return self.audio if modality is Modality.AUDIO else self.video

    def label(self, task: Task) -> str:
        """The rates that matter to ``task``, as the paper writes them: ``"4"``, ``"2"`` or ``"4,2"``."""
        return ",".join(str(self.of(modality)) for modality in task.modalities)


@dataclass(frozen=True)
class Word:
    """A word of a transcript with its time in seconds from the clip's start."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Clip:
    """One line of a manifest: a recording on disk and what is said in it. ``text`` is normalised."""

    id: str
    text: str
    split: str
    seconds: float
    audio: Path | None = None
    video: Path | None = None
    num_frames: int = 0
    speaker: str | None = None
    words: tuple[Word, ...] = ()
    quality: Mapping[str, float] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        present = ((Modality.AUDIO, self.audio), (Modality.VIDEO, self.video))
        return tuple(modality for modality, path in present if path is not None)


@dataclass(frozen=True)
class Example:
    """A clip read into memory and augmented, ready to be batched.

    waveform: [samples] float32, 16 kHz, normalised; None when the clip has no audio.
    video: [frames, height, width] float32 grey mouth crops, normalised; None when the clip has no video.
    snr_db: at which noise was added to the waveform; infinite when none was.
    """

    clip: Clip
    waveform: Tensor | None
    video: Tensor | None
    snr_db: float = math.inf

    def values(self, modality: Modality) -> Tensor | None:
        return self.waveform if modality is Modality.AUDIO else self.video


@dataclass(frozen=True)
class Features:
    """Padded sequences that travel with their lengths.

    values: [batch, time, ...]: waveforms [B, S], mouth crops [B, T, H, W], encoder features or LLM tokens [B, T, D].
    lengths: [batch] int64, how many steps of each row are real. What stands behind them never changes a result.
    """

    values: Tensor
    lengths: Tensor

    def mask(self) -> Tensor:
        """[batch, time] bool, true where a step is real."""
        return torch.arange(self.values.shape[1], device=self.values.device) < self.lengths[:, None]

    def attended(self) -> Features:
        """The same with every row as long as the longest, zeros behind the shorter ones counted as real."""
        mask = self.mask().view(*self.values.shape[:2], *[1] * (self.values.ndim - 2))
        longest = self.lengths.max().expand(len(self.lengths))
        return Features(self.values.masked_fill(~mask, 0.0), longest)

    def to(self, device: torch.device | str | None, dtype: torch.dtype | None = None) -> Features:
        return Features(self.values.to(device=device, dtype=dtype), self.lengths.to(device=device))

    @staticmethod
    def whole(values: Tensor) -> Features:
        """Rows without padding."""
        return Features(values, torch.full(values.shape[:1], values.shape[1], device=values.device))

    @staticmethod
    def pad(rows: list[Tensor]) -> Features:
        """Stack rows of unequal length, zeros behind the shorter ones."""
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        return Features(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths)


@dataclass(frozen=True)
class Batch:
    """Clips of one training or evaluation step. All of them have the same modalities.

    inputs: raw waveforms and mouth crops by modality.
    num_label_tokens: per task, the scored tokens of the whole global batch (all ranks, all accumulation steps), which
        each task's summed loss is divided by; empty at evaluation.
    num_clips: clips of the whole global batch.
    step: the optimizer step that the batch belongs to.
    features: outputs of frozen encoders that were computed before; they stand in for ``inputs``.
    snr_db: of each clip, where noise was added to its audio; infinite where none was.
    """

    clips: tuple[Clip, ...]
    inputs: Mapping[Modality, Features]
    num_label_tokens: Mapping[Task, int] = field(default_factory=dict)
    num_clips: int = 0
    step: int = 0
    features: Mapping[Modality, Features] = field(default_factory=dict)
    snr_db: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def texts(self) -> list[str]:
        return [clip.text for clip in self.clips]

    def to(self, device: torch.device | str | None, dtype: torch.dtype | None = None) -> Batch:
        inputs = {modality: values.to(device, dtype) for modality, values in self.inputs.items()}
        features = {modality: values.to(device, dtype) for modality, values in self.features.items()}
        return replace(self, inputs=inputs, features=features)

    def supports(self, task: Task) -> bool:
        return all(modality in self.inputs or modality in self.features for modality in task.modalities)


@dataclass(frozen=True)
class StepOutput:
    """The weighted loss of one step and, per task, its own unweighted loss (detached) and token counts."""

    loss: Tensor
    task_losses: Mapping[Task, Tensor]
    num_llm_tokens: int
    num_padded_tokens: int


@dataclass(frozen=True)
class Workload:
    """What one micro-batch makes an objective compute, in lengths: its FLOPs follow from it.

    inputs: lengths [B] of what the encoders read, in samples or frames.
    features: lengths [B] of encoder features that were computed before, in place of ``inputs``.
    num_labels: [B] scored labels of each clip, the end token included.
    passes: for each pair of rates that projectors run at, the tasks that run through the LLM.
    num_readings: how often heads read the encoder's features (twice under mixup).
    """

    inputs: Mapping[Modality, Tensor]
    num_labels: Tensor
    features: Mapping[Modality, Tensor] = field(default_factory=dict)
    passes: Mapping[Rates, Sequence[Task]] = field(default_factory=dict)
    num_readings: int = 1


def lengths_of(parts: Mapping[Modality, Features]) -> dict[Modality, Tensor]:
    """The lengths of each modality's rows, on the CPU."""
    return {modality: features.lengths.cpu() for modality, features in parts.items()}


@dataclass(frozen=True)
class Hypothesis:
    """What the model wrote for one clip, beside what was said. One line of a hypotheses JSONL."""

    id: str
    task: Task
    rates: str
    reference: str
    text: str
    split: str = ""
    speaker: str | None = None
    snr_db: float | None = None
    condition: str = MATCHED


@dataclass(frozen=True)
class RunRecord:
    """One finished stage of a run, as later work (scaling laws) reads it back.

    flops: "forward" and "backward", each by part of the model (see ``flops``); empty in records of before they were
        counted.
    """

    stage: str
    seed: int
    commit: str
    date: str
    steps: int
    seconds: float
    num_trainable: int
    metrics: Mapping[str, float]
    flops: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
