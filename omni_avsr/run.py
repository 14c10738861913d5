"""A run: all stages one after another, from wherever the last session left off."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.progress import track
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset

from omni_avsr.build import build_encoders, build_model
from omni_avsr.checkpoint import TRAINED, read_info, save_checkpoint, save_tensors
from omni_avsr.config import STRICT, ModelConfig, Positive, WhisperConfig, to_mapping
from omni_avsr.data.augment import Augmenter
from omni_avsr.data.batching import BatchPlan, ClipSize, PlanSampler
from omni_avsr.data.cache import ClipCache, open_cache
from omni_avsr.data.config import DataConfig
from omni_avsr.data.dataset import BatchDataset
from omni_avsr.data.feature_store import FeatureDataset, open_feature_store
from omni_avsr.data.noise import NoiseSource
from omni_avsr.encoders.whisper_decoder import WhisperDecoderObjective
from omni_avsr.features import VIDEO_FPS
from omni_avsr.files import write_atomically
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives import (
    CTCObjective,
    DecoderObjective,
    Objective,
    RecognitionObjective,
    WordFrameTargets,
    encoder_of,
)
from omni_avsr.provenance import commit, today
from omni_avsr.resume import ResumePoint, load_state, trained_state
from omni_avsr.stages import (
    CTCObjectiveConfig,
    DecoderObjectiveConfig,
    RecognitionObjectiveConfig,
    StageConfig,
    freeze_all_but,
    set_modes,
)
from omni_avsr.training import Progress, ResumeSaver, StageModule, plan_loader
from omni_avsr.types import Batch, Clip, Modality, RunRecord, Task
from omni_avsr.weights import cache_folder, resolve

log = logging.getLogger(__name__)

RECORD = "record.json"
VALIDATION_CLIPS = 8
"""Clips of one validation batch."""


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """Everything a run needs.

    domain: what the model is trained on and good for, in words; every command that uses the checkpoint shows it.
    trainer: goes to Lightning's Trainer as it is.
    """

    model: ModelConfig
    data: DataConfig
    stages: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], StageConfig]
    output: Path
    seed: Annotated[int, Field(ge=0)] = 7
    trainer: dict[str, Any] = field(default_factory=dict)
    loggers: tuple[Literal["csv", "tensorboard", "wandb"], ...] = ("csv", "tensorboard")
    domain: str = "not stated"
    checkpoint_dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    log_every: Positive = 20
    max_label_tokens: Positive = 128
    resume_seconds: Annotated[float, Field(gt=0)] = 600.0
    resume_steps: Positive = 1_000_000


def cached_clips(clips: Sequence[Clip], root: Path, what: str) -> tuple[list[Clip], ClipCache]:
    """The clips that could be decoded, and their cache; the others are logged with their reasons.

    Raises:
        ValueError: none could be decoded.
    """
    cache = open_cache(clips, root, lambda items: track(list(items), f"decoding {what}"))
    decoded = [clip for clip in clips if clip in cache]
    if not decoded:
        raise ValueError(f"none of the {len(clips)} {what} could be decoded, such as {clips[0].id}: "
                         f"{cache.failed[clips[0].id]}")  # fmt: skip
    return decoded, cache


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


def run(config: RunConfig) -> Path:
    """Train every stage that is not finished yet; returns the run folder.

    Raises:
        ValueError: what any of these stages cannot use, be it a setting, a file or a clip, before the first one starts.
    """
    cache_root = config.data.cache or cache_folder() / "clips"
    train, train_cache = cached_clips(config.data.read_split("train"), cache_root, "training clips")
    validation = config.data.read_split("validation")[: config.data.max_validation_clips]
    validation, validation_cache = cached_clips(validation, cache_root, "validation clips")
    folders = [config.output / "stages" / f"{number}-{name}" for number, name in enumerate(config.stages)]
    noise = NoiseSource.read(config.data.noise) if config.data.noise else None
    augmenters = {n: Augmenter(stage.augment, noise) if stage.augment else None for n, stage in config.stages.items()}
    unfinished = [n for n, folder in zip(config.stages, folders, strict=True) if not (folder / TRAINED).is_file()]
    for name in unfinished[1:]:  # the first one is about to find out by itself
        _check_stage(config, name, train, validation)
    for number, (name, stage) in enumerate(config.stages.items()):
        folder = folders[number]
        if name not in unfinished:
            log.info("stage %s is finished: %s", name, folder)
            continue
        seed = config.seed * 1_009 + number
        model = _build(config, stage, seed)
        for previous in folders[:number]:
            state = load_file(previous / TRAINED)
            own = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
            load_state(model, {name: value for name, value in state.items() if name in own})
        waveform = config.model.waveform
        training_data = BatchDataset(usable_clips(name, stage, train), train_cache, waveform, augmenters[name], seed)
        validation_data = BatchDataset(usable_clips(name, stage, validation), validation_cache, waveform)
        run_stage(config, name, stage, seed, folder, model, training_data, validation_data)
    if any(isinstance(stage.objective, RecognitionObjectiveConfig) for stage in config.stages.values()):
        _export(config, folders)
    return config.output


def _check_stage(config: RunConfig, name: str, train: Sequence[Clip], validation: Sequence[Clip]) -> None:
    """Raise for whatever the stage would raise for at its start, without training it."""
    stage = config.stages[name]
    model = _build(config, stage, config.seed)
    freeze_all_but(model, stage.trainable)
    objective = _objective(config, stage, model, usable_clips(name, stage, train), config.seed)
    for clips in (train, validation):
        clip_sizes(objective, model, usable_clips(name, stage, clips), config.max_label_tokens)


@rank_zero_only
def _export(config: RunConfig, folders: Sequence[Path]) -> None:
    """Put what all stages trained into one checkpoint folder, unless that is there already."""
    folder = config.output / "checkpoint"
    records = [json.loads((stage / RECORD).read_text()) for stage in folders]
    if folder.is_dir() and read_info(folder).training["records"] == records:
        return
    model = build_model(config.model, config.seed)
    trained = {name: value for folder in folders for name, value in load_file(folder / TRAINED).items()}
    load_state(model, trained)
    training = {
        "domain": config.domain,
        "seed": config.seed,
        "commit": commit(),
        "date": today(),
        "stages": {name: to_mapping(stage) for name, stage in config.stages.items()},
        "records": records,
    }
    dtype = getattr(torch, config.checkpoint_dtype)
    save_checkpoint(folder, model, trained, training, dtype)
    log.info("checkpoint: %s", folder)


def run_stage(
    config: RunConfig,
    name: str,
    stage: StageConfig,
    seed: int,
    folder: Path,
    model: nn.Module,
    train: BatchDataset,
    validation: BatchDataset,
) -> None:
    """Train one stage, resuming it where its resume point stands, and write its trained tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = freeze_all_but(model, stage.trainable)
    set_modes(model)
    log.info("stage %s trains %d tensors", name, len(chosen))
    torch.manual_seed(seed)
    objective = _objective(config, stage, model, train.clips, seed)
    start = ResumePoint.load(folder / "resume.pt")
    module = StageModule(model, objective, name, stage, seed, start)
    done = start.step if start else 0
    trainer = L.Trainer(
        max_steps=stage.num_steps - done,
        max_epochs=-1,
        accumulate_grad_batches=stage.batching.accumulation,
        gradient_clip_val=stage.optimizer.clip_norm,
        val_check_interval=stage.validate_every * stage.batching.accumulation,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=_loggers(config, folder, done),
        callbacks=[
            ResumeSaver(folder / "resume.pt", config.resume_seconds, config.resume_steps),
            Progress(config.log_every),
        ],
        **config.trainer,
    )
    data: Dataset[Batch] = train
    if stage.feature_variants:
        data = _stored_features(config, stage, model, chosen, train)
    sizes = clip_sizes(objective, model, train.clips, config.max_label_tokens)
    sampler = PlanSampler(sizes, stage.batching, stage.num_steps, trainer.global_rank, trainer.world_size)
    sampler.start_step = done
    plans = whole_plans(clip_sizes(objective, model, validation.clips, config.max_label_tokens), VALIDATION_CLIPS)
    # With no steps left too: it brings the processes of a distributed run together.
    trainer.fit(module, plan_loader(data, sampler, config.data.num_workers), plan_loader(validation, plans, 0))
    record = RunRecord(
        name, seed, commit(), today(), stage.num_steps, module.seconds,
        sum(value.numel() for value in model.parameters() if value.requires_grad), module.last_validation,
    )  # fmt: skip
    if trainer.is_global_zero:
        write_atomically(folder / RECORD, json.dumps(asdict(record), indent=2))
        save_tensors(folder / TRAINED, trained_state(model))
    trainer.strategy.barrier()  # no rank may look for these files before they are there


def _build(config: RunConfig, stage: StageConfig, seed: int) -> nn.Module:
    """The parts that the stage needs: an encoder stage never loads the LLM."""
    if isinstance(stage.objective, CTCObjectiveConfig):
        return build_encoders(config.model, seed, (stage.objective.modality,))
    if isinstance(stage.objective, DecoderObjectiveConfig):
        return build_encoders(config.model, seed, (Modality.AUDIO,))
    model = build_model(config.model, seed)
    if stage.gradient_checkpointing:
        model.router.enable_gradient_checkpointing(model.llm)
    return model


def _objective(config: RunConfig, stage: StageConfig, model: nn.Module, clips: Sequence[Clip], seed: int) -> Objective:
    match stage.objective:
        case CTCObjectiveConfig(modality=modality, frame_targets=targets, frame_weight=weight):
            frames = None
            if targets == "words":
                dim = encoder_of(model, modality).output_dim
                frames = WordFrameTargets(dim, WordFrameTargets.vocabulary(clips))
            return CTCObjective(modality, frames, weight)
        case DecoderObjectiveConfig(language=language):
            whisper = config.model.audio_encoder
            if not isinstance(whisper, WhisperConfig):
                raise ValueError("the whisper_decoder objective trains a Whisper encoder; model.audio_encoder is none")
            return DecoderObjective(WhisperDecoderObjective.from_folder(resolve(whisper.weights).path, language))
        case RecognitionObjectiveConfig(task_weights=weights):
            return RecognitionObjective(weights, seed, config.max_label_tokens)


def _stored_features(
    config: RunConfig, stage: StageConfig, model: nn.Module, chosen: set[str], train: BatchDataset
) -> FeatureDataset:
    """The training clips as features of the frozen encoders, each clip in ``stage.feature_variants`` variants.

    Stages with the same encoders, clips and augmentation share one store, whose name is their fingerprint.
    """
    assert isinstance(model, OmniAVSR)
    if trained := [name for name in chosen if name.startswith("encoders.")]:
        raise ValueError(f"feature_variants stores encoder outputs, but the stage trains {sorted(trained)[0]}")
    settings = [config.seed, stage.feature_variants, to_mapping(stage.augment), [clip.id for clip in train.clips]]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for value in model.encoders.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    store = open_feature_store(
        config.output / "features" / digest.hexdigest()[:16],
        BatchDataset(train.clips, train.reader, train.waveform, train.augmenter, config.seed),
        stage.feature_variants,
        torch.no_grad()(model.encode),
        lambda indices: track(list(indices), "encoding training clips"),
    )
    return FeatureDataset(list(train.clips), store, config.seed)


def clip_sizes(objective: Objective, model: nn.Module, clips: Sequence[Clip], longest: int) -> list[ClipSize]:
    """What the batch planner needs to know of each clip.

    Raises:
        ValueError: a transcript is over ``longest`` labels; names the clip and what to do.
    """
    sizes = []
    for clip in clips:
        num_labels = objective.num_label_tokens(model, clip.text)
        if not 0 < num_labels <= longest:
            raise ValueError(
                f"the transcript of {clip.id} has {num_labels} labels, allowed are 1 to max_label_tokens={longest}; "
                "raise the limit, or cut or drop the clip"
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


def _loggers(config: RunConfig, folder: Path, step: int) -> list[Logger]:
    version = f"from-step-{step}"
    built: list[Logger] = []
    for name in config.loggers:
        match name:
            case "csv":
                built.append(CSVLogger(folder, "csv", version))
            case "tensorboard":
                built.append(TensorBoardLogger(folder, "tensorboard", version))
            case "wandb":
                built.append(WandbLogger(name=f"{config.output.name}-{folder.name}", save_dir=folder))
    return built
