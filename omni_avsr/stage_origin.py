"""What a stage's weights depend on, so that another run (of a sweep, say) does not take them for its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omni_avsr import archive
from omni_avsr.checkpoint import TRAINED, pin_base_weights
from omni_avsr.config import ModelConfig, to_mapping
from omni_avsr.data.noise import NoiseSource
from omni_avsr.provenance import file_sha256
from omni_avsr.stages import EncoderObjectiveConfig, StageConfig
from omni_avsr.types import Clip
from omni_avsr.weights import resolve


def stage_origin(
    model: ModelConfig,
    stage: StageConfig,
    seed: int,
    clips: Sequence[Clip],
    noise: NoiseSource | None,
    start: dict[str, Any] | None,
    earlier: Sequence[Path],
) -> dict[str, str | None]:
    """Fingerprints of all that decides a stage's result, by the names that an error message gives them.

    Args:
        clips: the training clips.
        noise: what augmentation mixes in.
        start: what the run says of the checkpoint that it starts from.
        earlier: folders of the stages before this one.
    """
    parts = {
        "model": _model_part(model, stage),
        "stage settings": to_mapping(stage),
        "seed": seed,
        "training clips": clips_fingerprint(clips),
        "noise": noise.fingerprint if noise and stage.augment else None,
        "start": start,
        "earlier stages": [file_sha256(folder / TRAINED) for folder in earlier],
    }
    return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}


def clips_fingerprint(clips: Sequence[Clip]) -> str:
    """Hash of what is said in the clips, when, and of the sizes of their files; where they lie does not matter."""
    digest = hashlib.sha256()
    for clip in clips:
        sizes = [archive.stored_in(path).stat().st_size if path else None for path in (clip.audio, clip.video)]
        words = [(word.text, word.start, word.end) for word in clip.words]
        digest.update(json.dumps([clip.id, clip.text, clip.num_frames, clip.seconds, words, sizes]).encode())
    return digest.hexdigest()


def _model_part(config: ModelConfig, stage: StageConfig) -> dict[str, Any]:
    """The settings that a stage depends on: those of its encoders alone, or all of them where it needs all.

    Base models go by their sha256: the same name may stand for other weights in the next session.
    """
    if not isinstance(stage.objective, EncoderObjectiveConfig):
        return to_mapping(pin_base_weights(config))
    encoders = {}
    for modality in stage.objective.modalities:
        base = config.base_weights.get(f"encoders.{modality}.encoder.")
        pin = resolve(base.reference).sha256() if base else None
        encoders[str(modality)] = [to_mapping(config.encoder_of(modality)), pin]
    return {**encoders, "waveform": config.waveform}
