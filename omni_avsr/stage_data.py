"""What a stage reads: its clips, their sizes, and batches of them, encoded or not."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader

from omni_avsr.config import ModelConfig, to_mapping
from omni_avsr.data.batching import BatchPlan, ClipSize, PlanSampler
from omni_avsr.data.cache import ClipCache, open_cache
from omni_avsr.data.dataset import BatchDataset
from omni_avsr.data.feature_store import FORMAT_VERSION, FeatureDataset, open_feature_store
from omni_avsr.encoders.access import max_seconds
from omni_avsr.encoders.avhubert import AVHubertEncoder
from omni_avsr.features import VIDEO_FPS
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.base import LabelUnit, Objective
from omni_avsr.stage_origin import clips_fingerprint
from omni_avsr.stages import EncoderObjectiveConfig, StageConfig, matching_names
from omni_avsr.types import Clip, Features, Modality, Task

log = logging.getLogger(__name__)


def cached_clips(clips: Sequence[Clip], root: Path, what: str) -> tuple[list[Clip], ClipCache]:
    """The clips that could be decoded, and their cache; the others are logged with their reasons.

    Raises:
        ValueError: none could be decoded.
    """
    cache = open_cache(clips, root, lambda items: track(list(items), f"decoding {what}"))
    for clip, reason in cache.failed.items():
        log.warning("left out %s: %s", clip, reason)
    decoded = [clip for clip in clips if clip in cache]
    if not decoded:
        raise ValueError(f"none of the {len(clips)} {what} could be decoded, such as {clips[0].id}: "
                         f"{cache.failed[clips[0].id]}")  # fmt: skip
    return decoded, cache


def training_clips(name: str, stage: StageConfig, clips: Sequence[Clip]) -> list[Clip]:
    """The clips that stage ``name`` trains on: those its ``clips`` globs choose, as far as it can use them.

    Raises:
        ValueError: a glob matches nothing, or no chosen clip has what the objective reads.
    """
    ids = matching_names((clip.id for clip in clips), stage.clips, f"training clip of stage {name}")
    return usable_clips(name, stage, [clip for clip in clips if clip.id in ids])


def usable_clips(name: str, stage: StageConfig, clips: Sequence[Clip]) -> list[Clip]:
    """The clips that have what the objective of stage ``name`` reads.

    Raises:
        ValueError: none has.
    """
    tasks = stage.objective.tasks
    usable = [clip for clip in clips if any(set(task.modalities) <= set(clip.modalities) for task in tasks)]
    if not usable:
        raise ValueError(f"stage {name} trains {', '.join(tasks)}, but none of {len(clips)} clips has what that reads")
    return usable


def check_storable(config: ModelConfig, trained: Iterable[str]) -> None:
    """Raise ValueError when encoder outputs are to be stored, but change in training or with a batch's other clips."""
    if config.padding == "attended":
        raise ValueError(
            "feature_variants stores each clip's own encoder outputs, but with padding attended they depend on the "
            "batch; set one of the two otherwise"
        )
    if names := sorted(name for name in trained if name.startswith("encoders.")):
        raise ValueError(f"feature_variants stores encoder outputs, but the stage trains {names[0]}")


def check_same_layers(name: str, stage: StageConfig, model: nn.Module, clips: Sequence[Clip]) -> None:
    """Raise ValueError when training batches of stage ``name`` would not all run the same layers of ``model``.

    Processes of a sharded training, which gather each layer together, would wait for each other forever.
    """
    kinds = sorted({"+".join(clip.modalities) for clip in clips})
    # The objectives on encoders read the same of every clip.
    if len(kinds) > 1 and not isinstance(stage.objective, EncoderObjectiveConfig):
        raise ValueError(
            f"stage {name} trains on clips with {' and '.join(kinds)}, but processes of a sharded training have to run "
            "the same layers at the same time; choose clips of one kind (`clips`), or use trainer=ddp"
        )
    if any(isinstance(part, AVHubertEncoder) and part.training and part.layer_drop for part in model.modules()):
        raise ValueError(
            f"stage {name} trains an encoder that leaves layers out at random, in each process others, which sharded "
            "training cannot do; set model.video_encoder.layer_drop=0, or use trainer=ddp"
        )


def stored_features(
    root: Path, stage: StageConfig, model: OmniAVSR, train: BatchDataset, seed: int, device: torch.device
) -> FeatureDataset:
    """The training clips as features of the frozen encoders, each clip in ``stage.feature_variants`` variants.

    For it the encoders are moved to ``device``, and nothing else of the model. Stages with the same encoders, clips,
    noise and augmentation share one store below ``root``, named by its fingerprint.
    """
    noise = train.augmenter.noise if train.augmenter else None
    settings = [
        FORMAT_VERSION,
        seed,
        stage.feature_variants,
        to_mapping(stage.augment),
        noise.fingerprint if noise else None,
        clips_fingerprint(train.clips),
        train.waveform,
        [to_mapping(model.config.encoder_of(modality)) for modality in Modality],
    ]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for value in model.encoders.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())

    model.encoders.to(device)

    @torch.no_grad()
    def encode(inputs: Mapping[Modality, Features]) -> dict[Modality, Features]:
        return model.encode({modality: values.to(device) for modality, values in inputs.items()})

    store = open_feature_store(
        root / digest.hexdigest()[:16],
        BatchDataset(train.clips, train.reader, train.waveform, train.augmenter, seed),
        stage.feature_variants,
        encode,
        lambda indices: track(list(indices), "encoding training clips"),
    )
    return FeatureDataset(list(train.clips), store, seed)


def clip_sizes(
    objective: Objective, model: nn.Module, clips: Sequence[Clip], limits: Mapping[LabelUnit, int]
) -> list[ClipSize]:
    """What the batch planner needs to know of each clip.

    Args:
        limits: labels that a transcript may have, by the unit in which the objective counts them.

    Raises:
        ValueError: a transcript has no label or too many, or a clip is longer than an encoder takes; names the clip
            and what to do.
    """
    sizes, unit = [], objective.label_unit
    for clip in clips:
        num_labels = objective.num_label_tokens(model, clip.text)
        if not 0 < num_labels <= limits[unit]:
            raise ValueError(
                f"the transcript of {clip.id} has {num_labels} {unit}, allowed are 1 to "
                f"max_label_{unit}={limits[unit]}; raise the limit, or cut or drop the clip"
            )
        for modality in clip.modalities:
            longest = max_seconds(model, modality)
            if clip.seconds > longest:
                raise ValueError(
                    f"{clip.id} has {clip.seconds:.2f} s, the {modality} encoder takes {longest:g} s; "
                    "cut or drop the clip"
                )
        # Audio counts in video frames of 40 ms, so that one budget serves both.
        sizes.append(ClipSize(max(clip.num_frames, math.ceil(clip.seconds * VIDEO_FPS)), num_labels, clip.modalities))
    return sizes


def whole_plans(sizes: Sequence[ClipSize], max_clips: int) -> list[BatchPlan]:
    """Plans that go through all clips once, each its own global batch of the same modalities, for validation."""
    groups: list[list[int]] = []
    for modalities in sorted({size.modalities for size in sizes}):
        indices = [index for index, size in enumerate(sizes) if size.modalities == modalities]
        groups += [indices[start : start + max_clips] for start in range(0, len(indices), max_clips)]
    return [
        BatchPlan(tuple(group), step, {task: sum(sizes[i].label_tokens for i in group) for task in Task}, len(group))
        for step, group in enumerate(groups)
    ]


def plan_loader(dataset: Any, sampler: Sequence[BatchPlan] | PlanSampler, num_workers: int) -> DataLoader:
    """A loader whose dataset turns each plan into a finished batch."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=False,
        multiprocessing_context="spawn" if num_workers else None,
    )
