"""FLOPs from settings alone: ledgers of models without weights, and workloads from seconds and label counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omni_avsr.config import ModelConfig, WhisperConfig
from omni_avsr.encoders.whisper_decoder import WhisperDecoderObjective
from omni_avsr.features import SAMPLE_RATE, VIDEO_FPS
from omni_avsr.flops.ledger import Ledger, build_ledger
from omni_avsr.objectives.base import Objective
from omni_avsr.objectives.build import build_objective
from omni_avsr.objectives.decoder import DecoderObjective
from omni_avsr.objectives.frame_targets import MAX_FRAME_WORDS
from omni_avsr.shapes import shaped_model, whisper_shape, whisper_tokenizer
from omni_avsr.stages import DecoderObjectiveConfig, StageConfig, freeze_all_but, set_modes
from omni_avsr.types import Clip, Modality, Rates, Task, Word, Workload


def planned_ledger(
    config: ModelConfig,
    stage: StageConfig,
    llm_shape: Mapping[str, Any] | None = None,
    num_words: int = MAX_FRAME_WORDS,
) -> Ledger:
    """The ledger of a stage, without weights or data.

    A prompt counts one token a word, which real tokenizers nearly keep to.

    Args:
        llm_shape: sizes of an LLM that is not in ``shapes.LLM_SHAPES``.
        num_words: words that get a class of their own where frames have words as targets.

    Raises:
        ValueError: the sizes of a base model are not known, or the stage does not fit the model.
    """
    model = shaped_model(config, 0, "meta", llm_shape)
    freeze_all_but(model, stage.trainable)
    set_modes(model, stage.drifting)
    with torch.device("meta"):
        words = tuple(Word(f"w{number}", 0.0, 1.0) for number in range(num_words))
        objective: Objective
        match stage.objective:
            case DecoderObjectiveConfig(language=language):
                objective = _decoder(config, language)
            case _:
                objective = build_objective(stage.objective, config, model, [Clip("", "", "", 1.0, words=words)], 0)
    assert isinstance(objective, torch.nn.Module)
    return build_ledger(model, objective, stage.gradient_checkpointing)


def _decoder(config: ModelConfig, language: str | None) -> DecoderObjective:
    encoder = config.audio_encoder
    if not isinstance(encoder, WhisperConfig):
        raise ValueError("the whisper_decoder objective trains a Whisper encoder; model.audio_encoder is none")
    return DecoderObjective(
        WhisperDecoderObjective(whisper_shape(encoder.weights), whisper_tokenizer(language), language)
    )


def planned_workload(
    seconds: Sequence[float],
    num_labels: Sequence[int],
    passes: Mapping[Rates, Sequence[Task]] | None = None,
    modalities: Sequence[Modality] = tuple(Modality),
    num_readings: int = 1,
) -> Workload:
    """One micro-batch of clips of so many seconds and scored labels; the other settings are ``Workload``'s.

    FLOPs without padding are the sum over batches of one clip.
    """
    per_second = {Modality.AUDIO: SAMPLE_RATE, Modality.VIDEO: VIDEO_FPS}
    inputs = {m: torch.tensor([max(1, round(per_second[m] * length)) for length in seconds]) for m in modalities}
    return Workload(inputs, torch.tensor(num_labels), passes=passes or {}, num_readings=num_readings)
