"""A run: all stages one after another, from wherever the last session left off."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from omni_avsr.build import build_encoders, build_model
from omni_avsr.callbacks import LoggerName, Progress, ResumeSaver, build_loggers, plot_stage
from omni_avsr.checkpoint import TRAINED, read_info, save_checkpoint, save_tensors
from omni_avsr.config import STRICT, ModelConfig, Positive, to_mapping
from omni_avsr.data.augment import Augmenter
from omni_avsr.data.batching import PlanSampler
from omni_avsr.data.config import DataConfig
from omni_avsr.data.dataset import BatchDataset
from omni_avsr.data.noise import NoiseSource
from omni_avsr.files import write_atomically
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.build import build_objective
from omni_avsr.provenance import bind_results, commit, file_sha256, today
from omni_avsr.resume import ResumePoint, load_state, trained_state
from omni_avsr.stage_data import (
    cached_clips,
    check_encoders_are_frozen,
    clip_sizes,
    plan_loader,
    stored_features,
    usable_clips,
    whole_plans,
)
from omni_avsr.stages import (
    RecognitionObjectiveConfig,
    StageConfig,
    freeze_all_but,
    set_modes,
)
from omni_avsr.start import StartConfig, start_record, start_tensors
from omni_avsr.training import StageModule
from omni_avsr.types import Batch, Clip, RunRecord
from omni_avsr.weights import cache_folder

log = logging.getLogger(__name__)

RECORD = "record.json"
VALIDATION_CLIPS = 8
"""Clips of one validation batch."""


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """Everything a run needs.

    domain: what the model is trained on and good for, in words; every command that uses the checkpoint shows it.
    trainer: goes to Lightning's Trainer as it is.
    start: a checkpoint whose weights the first stage starts from.
    """

    model: ModelConfig
    data: DataConfig
    stages: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], StageConfig]
    output: Path
    seed: Annotated[int, Field(ge=0)] = 7
    trainer: dict[str, Any] = field(default_factory=dict)
    loggers: tuple[LoggerName, ...] = ("csv", "tensorboard")
    domain: str = "not stated"
    start: StartConfig | None = None
    checkpoint_dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    log_every: Positive = 20
    max_label_tokens: Positive = 128
    resume_seconds: Annotated[float, Field(gt=0)] = 600.0
    resume_steps: Positive = 1_000_000


def run(config: RunConfig) -> Path:
    """Train every stage that is not finished yet; returns the run folder.

    Raises:
        ValueError: what any of these stages cannot use, be it a setting, a file or a clip, before the first one starts;
            or the output folder holds stages that were trained with other settings.
    """
    cache_root = config.data.cache or cache_folder() / "clips"
    train, train_cache = cached_clips(config.data.read_split("train"), cache_root, "training clips")
    validation = config.data.read_split("validation")[: config.data.max_validation_clips]
    validation, validation_cache = cached_clips(validation, cache_root, "validation clips")
    folders = [config.output / "stages" / f"{number}-{name}" for number, name in enumerate(config.stages)]
    noise = NoiseSource.read(config.data.noise) if config.data.noise else None
    augmenters = {n: Augmenter(stage.augment, noise) if stage.augment else None for n, stage in config.stages.items()}
    unfinished = [n for n, folder in zip(config.stages, folders, strict=True) if not (folder / TRAINED).is_file()]
    start = start_tensors(config.start, config.model) if config.start else {}
    for name in unfinished[1:]:  # the first one is about to find out by itself
        _check_stage(config, name, train, validation)
    for number, (name, stage) in enumerate(config.stages.items()):
        folder = folders[number]
        bind_results(folder, _origin(config, stage, train, folders[:number]))
        if name not in unfinished:
            log.info("stage %s is finished: %s", name, folder)
            continue
        seed = config.seed * 1_009 + number
        # One seed builds all stages and the checkpoint, so that what no stage trains is the same everywhere.
        model = _build(config, stage, config.seed)
        for state in (start, *(load_file(previous / TRAINED) for previous in folders[:number])):
            own = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
            load_state(model, {name: value for name, value in state.items() if name in own})
        waveform = config.model.waveform
        training_data = BatchDataset(usable_clips(name, stage, train), train_cache, waveform, augmenters[name], seed)
        validation_data = BatchDataset(usable_clips(name, stage, validation), validation_cache, waveform)
        run_stage(config, name, stage, seed, folder, model, training_data, validation_data)
    if any(isinstance(stage.objective, RecognitionObjectiveConfig) for stage in config.stages.values()):
        _export(config, folders, start)
    return config.output


def _check_stage(config: RunConfig, name: str, train: Sequence[Clip], validation: Sequence[Clip]) -> None:
    """Raise for whatever the stage would raise for at its start, without training it."""
    stage = config.stages[name]
    model = _build(config, stage, config.seed)
    chosen = freeze_all_but(model, stage.trainable)
    if stage.feature_variants:
        check_encoders_are_frozen(chosen)
    objective = build_objective(
        stage.objective, config.model, model, usable_clips(name, stage, train), config.max_label_tokens, config.seed
    )
    for clips in (train, validation):
        clip_sizes(objective, model, usable_clips(name, stage, clips), config.max_label_tokens)


def _origin(
    config: RunConfig, stage: StageConfig, train: Sequence[Clip], earlier: Sequence[Path]
) -> dict[str, str | None]:
    """What a stage's weights depend on, so that another run (of a sweep, say) does not take them for its own."""
    parts = {
        "model": _model_part(config.model, stage),
        "stage settings": to_mapping(stage),
        "seed": config.seed,
        "training clips": [(clip.id, clip.text) for clip in train],
        "noise": file_sha256(config.data.noise) if config.data.noise and stage.augment else None,
        "start": start_record(config.start) if config.start else None,
        "earlier stages": [file_sha256(folder / TRAINED) for folder in earlier],
    }
    return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}


@rank_zero_only
def _export(config: RunConfig, folders: Sequence[Path], start: Mapping[str, Tensor]) -> None:
    """Put what the run started from and what all stages trained into one checkpoint folder, if it is not there yet."""
    folder = config.output / "checkpoint"
    records = [json.loads((stage / RECORD).read_text()) for stage in folders]
    if folder.is_dir() and read_info(folder).training["records"] == records:
        return
    model = build_model(config.model, config.seed)
    trained = dict(start)
    for stage in folders:
        trained |= load_file(stage / TRAINED)
    load_state(model, trained)
    training = {
        "domain": config.domain,
        "seed": config.seed,
        "commit": commit(),
        "date": today(),
        "stages": {name: to_mapping(stage) for name, stage in config.stages.items()},
        "records": records,
        **({"start": start_record(config.start)} if config.start else {}),
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
    objective = build_objective(stage.objective, config.model, model, train.clips, config.max_label_tokens, seed)
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
        logger=build_loggers(config.loggers, folder, done),
        callbacks=[
            ResumeSaver(folder / "resume.pt", config.resume_seconds, config.resume_steps),
            Progress(config.log_every),
        ],
        **config.trainer,
    )
    data: Dataset[Batch] = train
    if stage.feature_variants:
        assert isinstance(model, OmniAVSR)
        check_encoders_are_frozen(chosen)
        model.to(trainer.strategy.root_device)
        data = stored_features(config.output / "features", stage, model, train, config.seed)
    sizes = clip_sizes(objective, model, train.clips, config.max_label_tokens)
    sampler = PlanSampler(sizes, stage.batching, stage.num_steps, seed, trainer.global_rank, trainer.world_size)
    sampler.start_step = done
    plans = whole_plans(clip_sizes(objective, model, validation.clips, config.max_label_tokens), VALIDATION_CLIPS)
    # With no steps left too: it brings the processes of a distributed run together.
    with warnings.catch_warnings():
        # Frozen parts are in evaluation mode because they should be.
        warnings.filterwarnings("ignore", "Found .* module.* in eval mode")
        trainer.fit(module, plan_loader(data, sampler, config.data.num_workers), plan_loader(validation, plans, 0))
        if not module.last_validation:  # the last steps, or all of them after a resume, were too few for one
            trainer.validate(module, plan_loader(validation, plans, 0), verbose=False)
    record = RunRecord(
        name, seed, commit(), today(), stage.num_steps, module.seconds,
        sum(value.numel() for value in model.parameters() if value.requires_grad), module.last_validation,
    )  # fmt: skip
    if trainer.is_global_zero:
        write_atomically(folder / RECORD, json.dumps(asdict(record), indent=2))
        save_tensors(folder / TRAINED, trained_state(model))
        if "csv" in config.loggers:
            plot_stage(folder)
    trainer.strategy.barrier()  # no rank may look for these files before they are there


def _model_part(config: ModelConfig, stage: StageConfig) -> dict[str, Any]:
    """The settings that a stage depends on: those of its encoder alone, or all of them where it runs the LLM."""
    if isinstance(stage.objective, RecognitionObjectiveConfig):
        return to_mapping(config)
    encoders = {str(modality): to_mapping(config.encoder_of(modality)) for modality in stage.objective.modalities}
    return {**encoders, "waveform": config.waveform}


def _build(config: RunConfig, stage: StageConfig, seed: int) -> nn.Module:
    """The parts that the stage needs: an encoder stage never loads the LLM."""
    if not isinstance(stage.objective, RecognitionObjectiveConfig):
        return build_encoders(config.model, seed, stage.objective.modalities)
    model = build_model(config.model, seed)
    if stage.gradient_checkpointing:
        model.router.enable_gradient_checkpointing(model.llm)
    return model
