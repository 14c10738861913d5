"""The contract of an objective: what a stage minimises, batches in, loss and figures out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from omni_avsr.types import Batch, Workload

LabelUnit = Literal["tokens", "characters"]
"""What an objective counts as one label: tokens of an LLM or a Whisper decoder, or characters of CTC."""


@dataclass(frozen=True)
class ObjectiveOutput:
    """What one micro-batch gave.

    loss: scalar, already divided by the totals of the global batch.
    figures: detached values worth logging; like the loss, the micro-batches of a step add up to the step's value.
    num_tokens: real tokens (encoder frames, or positions of the LLM) the loss was computed from.
    num_padded_tokens: the same with padding.
    work: what it was computed from, for the count of FLOPs.
    """

    loss: Tensor
    figures: Mapping[str, Tensor]
    num_tokens: int
    num_padded_tokens: int
    work: Workload


class Objective(Protocol):
    """An ``nn.Module`` that owns the parameters which only training needs; the model is passed in."""

    training: bool
    label_unit: LabelUnit

    def __call__(self, model: nn.Module, batch: Batch) -> ObjectiveOutput: ...

    def num_label_tokens(self, model: nn.Module, text: str) -> int:
        """How many labels a transcript is scored on."""
        ...

    def transcribe(self, model: nn.Module, batch: Batch) -> dict[str, list[str]]:
        """Texts of a validation batch by the name of the way they were read; empty for an objective without any."""
        ...
