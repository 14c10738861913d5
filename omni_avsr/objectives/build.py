"""Objective settings -> objective."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from omni_avsr.config import BridgeFormerConfig, ModelConfig, WhisperConfig
from omni_avsr.encoders.access import ctc_parts, encoder_of
from omni_avsr.encoders.whisper_decoder import WhisperDecoderObjective
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.base import Objective
from omni_avsr.objectives.ctc import CTCObjective
from omni_avsr.objectives.decoder import DecoderObjective
from omni_avsr.objectives.embed_link import EmbedLinkObjective
from omni_avsr.objectives.frame_targets import AudioCTCFrameTargets, AudioFeatureFrameTargets, WordFrameTargets
from omni_avsr.objectives.recognition import RecognitionObjective
from omni_avsr.stages import (
    CTCObjectiveConfig,
    DecoderObjectiveConfig,
    EmbedLinkObjectiveConfig,
    FrameTarget,
    ObjectiveConfig,
    RecognitionObjectiveConfig,
)
from omni_avsr.types import Clip, Modality
from omni_avsr.weights import resolve


def build_objective(
    config: ObjectiveConfig, model_config: ModelConfig, model: nn.Module, clips: Sequence[Clip], seed: int
) -> Objective:
    """Build the objective of a stage.

    Args:
        clips: training clips. Their words become the classes of frame targets, their longest transcript bounds what
            is written in validation.
        seed: of the rates that are drawn.

    Raises:
        ValueError: the model lacks an encoder or a head that the objective needs, or the clips lack word times.
    """
    match config:
        case CTCObjectiveConfig(modality=modality, frame_targets=weights):
            for part in {modality, *([Modality.AUDIO] if "audio_ctc" in weights else [])}:
                ctc_parts(model, part)
            frames: dict[str, nn.Module] = {name: _frame_targets(name, model, modality, clips) for name in weights}
            frame_weights = {str(name): weight for name, weight in weights.items()}
            return CTCObjective(modality, frames, frame_weights, config.mixup, seed)
        case DecoderObjectiveConfig(language=language):
            whisper = model_config.audio_encoder
            if not isinstance(whisper, WhisperConfig):
                raise ValueError("the whisper_decoder objective trains a Whisper encoder; model.audio_encoder is none")
            return DecoderObjective(WhisperDecoderObjective.from_folder(resolve(whisper.weights).path, language))
        case EmbedLinkObjectiveConfig():
            assert isinstance(model, OmniAVSR)
            _check_link(config, model, clips)
            return EmbedLinkObjective(config, seed)
        case RecognitionObjectiveConfig(task_weights=weights):
            if missing := [task for task in weights if task not in model_config.tasks]:
                raise ValueError(f"task_weights has {', '.join(missing)}, for which the model lacks an encoder")
            assert isinstance(model, OmniAVSR)
            longest = max(len(model.text.encode(clip.text)) + 1 for clip in clips)
            return RecognitionObjective(config, seed, longest)


def _check_link(config: EmbedLinkObjectiveConfig, model: OmniAVSR, clips: Sequence[Clip]) -> None:
    """Raise ValueError when there is no way to tell what a projected token should be."""
    if config.targets == "words" and not any(clip.words for clip in clips):
        raise ValueError(
            "embed_link with targets words needs word times, and no training clip has any; set its targets to pooled "
            "or heard, or leave its stage out"
        )
    if config.targets == "heard":
        for modality in model.frame_rates:
            ctc_parts(model, modality)
    projector = model.config.projector
    if config.targets != "pooled" and isinstance(projector, BridgeFormerConfig) and projector.num_tokens is not None:
        raise ValueError(
            f"embed_link with targets {config.targets} needs a token for every moment, and this projector pools a clip "
            f"to {projector.num_tokens}; set model.projector.num_tokens=null, or targets to pooled"
        )


def _frame_targets(target: FrameTarget, model: nn.Module, modality: Modality, clips: Sequence[Clip]) -> nn.Module:
    dim = encoder_of(model, modality).output_dim
    match target:
        case "words":
            return WordFrameTargets(dim, WordFrameTargets.vocabulary(clips))
        case "audio_ctc":
            return AudioCTCFrameTargets(dim)
        case "audio_features":
            return AudioFeatureFrameTargets(dim, encoder_of(model, Modality.AUDIO).output_dim)
