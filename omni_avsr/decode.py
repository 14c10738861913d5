"""Encoded batches to hypotheses, for any tasks and rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic.dataclasses import dataclass

from omni_avsr.compression import task_rates
from omni_avsr.config import STRICT, DraftConfig, Positive, PublishedSearch, check_draft
from omni_avsr.model import OmniAVSR
from omni_avsr.types import MATCHED, Clip, Features, Hypothesis, Modality, Rates, Task


@dataclass(frozen=True, config=STRICT)
class DecodeConfig:
    """Greedy with one beam. The paper uses 15 beams and 32 tokens (1.7). Deterministic unless ``published`` samples.

    ``published`` null searches as the model's own settings say: as published where it was imported. ``draft``: greedy
    search in fewer passes of the LLM.
    """

    num_beams: Positive = 1
    max_new_tokens: Positive = 32
    published: PublishedSearch | None = None
    draft: DraftConfig | None = None

    def __post_init__(self) -> None:
        check_draft(self.draft, self.num_beams, self.published)

    def __str__(self) -> str:
        said = f"{self.num_beams} beam(s), at most {self.max_new_tokens} tokens"
        said += f", as published ({self.published})" if self.published else ""
        return f"{said}, drafted ({self.draft})" if self.draft else said


def settings_of(model: OmniAVSR, tasks: Sequence[Task]) -> list[tuple[Task, Rates]]:
    """Each task with each of the rates that matter to it, once: the paper's columns, in its order."""
    return [(task, rates) for task in tasks for rates in task_rates(model.config.compression, task)]


def decode(
    model: OmniAVSR,
    clips: Sequence[Clip],
    features: Mapping[Modality, Features],
    task: Task,
    rates: Rates,
    config: DecodeConfig,
    snr_db: float | None = None,
    condition: str = MATCHED,
) -> list[Hypothesis]:
    """Transcribe encoded clips for one task at one pair of rates."""
    texts = model.generate(
        features, task, rates, config.num_beams, config.max_new_tokens, config.published, config.draft
    )
    return [
        Hypothesis(clip.id, task, rates.label(task), clip.text, text, clip.split, clip.speaker, snr_db, condition)
        for clip, text in zip(clips, texts, strict=True)
    ]
