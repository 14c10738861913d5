"""A run: all stages one after another, from wherever the last session left off."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_only
from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from omni_avsr.build import build_encoders, build_model, build_without_decoder
from omni_avsr.callbacks import Progress, ResumeSaver, TimeLimit
from omni_avsr.checkpoint import TRAINED, read_info, save_checkpoint, save_tensors
from omni_avsr.config import STRICT, ModelConfig, Positive, to_mapping
from omni_avsr.data.augment import Augmenter
from omni_avsr.data.batching import PlanSampler
from omni_avsr.data.config import DataConfig
from omni_avsr.data.dataset import BatchDataset
from omni_avsr.data.noise import NoiseSource
from omni_avsr.data.noise_set import noise_marks
from omni_avsr.edge.budget import Profile
from omni_avsr.edge.check import check_training
from omni_avsr.edge.training_memory import Precision
from omni_avsr.facts import Facts, check_trained
from omni_avsr.files import write_atomically
from omni_avsr.loggers import LoggerName, build_loggers, check_loggers, close_loggers, plot_stage
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.base import LabelUnit
from omni_avsr.objectives.build import build_objective
from omni_avsr.provenance import bind_results, check_results, commit, today
from omni_avsr.resume import ResumePoint, load_state, trained_state
from omni_avsr.stage_data import (
    cached_clips,
    check_same_layers,
    check_storable,
    clip_sizes,
    plan_loader,
    stored_features,
    training_clips,
    usable_clips,
    whole_plans,
)
from omni_avsr.stage_origin import stage_origin
from omni_avsr.stages import (
    EmbedLinkObjectiveConfig,
    EncoderObjectiveConfig,
    RecognitionObjectiveConfig,
    StageConfig,
    freeze_all_but,
    set_modes,
)
from omni_avsr.start import StartConfig, start_record, start_tensors
from omni_avsr.trainer import SHARDED, build_trainer, check_trainer
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
    facts: what can be counted of the experiment; a stage that trains another number of parameters is refused.
    profile: the device to train on; a stage that its memory cannot hold is refused.
    max_label_tokens, max_label_characters: the longest transcript that a stage may score, in tokens where it goes
        through an LLM or a Whisper decoder and in characters where it is CTC.
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
    facts: Facts | None = None
    profile: Profile | None = None
    checkpoint_dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    log_every: Positive = 20
    max_label_tokens: Positive = 128
    max_label_characters: Positive = 600
    resume_seconds: Annotated[float, Field(gt=0)] = 600.0
    resume_steps: Positive = 1_000_000

    def __post_init__(self) -> None:
        check_trainer(self.trainer)
        check_loggers(self.loggers)

    @property
    def sharded(self) -> bool:
        return self.trainer.get("strategy") == SHARDED

    @property
    def label_limits(self) -> dict[LabelUnit, int]:
        return {"tokens": self.max_label_tokens, "characters": self.max_label_characters}


class TrainedStages(NamedTuple):
    """The folders of all stages, in their order, and what they started from and trained on."""

    folders: Sequence[Path]
    start: Mapping[str, Tensor]
    clips: Sequence[Clip]
    noise: NoiseSource | None


def run(config: RunConfig) -> Path:
    """Train every stage that is not finished yet and put them into one checkpoint; returns the run folder.

    Raises:
        ValueError: as of ``train_stages``.
    """
    trained = train_stages(config)
    if not all(isinstance(stage.objective, EncoderObjectiveConfig) for stage in config.stages.values()):
        _export(config, trained)
    return config.output


def train_stages(config: RunConfig) -> TrainedStages:
    """Train every stage that is not finished yet.

    Raises:
        ValueError: what any of these stages cannot use, be it a setting, a file or a clip, before the first one starts;
            or the output folder holds stages that were trained with other settings.
    """
    cache_root = config.data.cache or cache_folder() / "clips"
    train, train_cache = cached_clips(config.data.read_split("train"), cache_root, "training clips")
    validation = config.data.read_split(config.data.validation_split)[: config.data.max_validation_clips]
    validation, validation_cache = cached_clips(validation, cache_root, "validation clips")
    folders = [config.output / "stages" / f"{number}-{name}" for number, name in enumerate(config.stages)]
    noise = config.data.read_noise()
    augmenters = {n: Augmenter(stage.augment, noise) if stage.augment else None for n, stage in config.stages.items()}
    if config.profile is not None:
        _check_memory(config, config.profile, train)
    unfinished = [n for n, folder in zip(config.stages, folders, strict=True) if not (folder / TRAINED).is_file()]
    start = start_tensors(config.start, config.model) if config.start else {}
    for name in unfinished[1:]:  # the first one is about to find out by itself
        _check_stage(config, name, start, train, validation)
    for number, (name, stage) in enumerate(config.stages.items()):
        folder = folders[number]
        said = start_record(config.start) if config.start else None
        origin = stage_origin(config.model, stage, config.seed, train, noise, said, folders[:number])
        check_results(folder, origin)
        if name not in unfinished:
            log.info("stage %s is finished: %s", name, folder)
            continue
        seed = config.seed * 1_009 + number
        # One seed builds all stages and the checkpoint, so that what no stage trains is the same everywhere.
        model = _build(config, stage, config.seed)
        _load_start(stage, model, start)
        for previous in folders[:number]:
            load_state(model, _own(model, load_file(previous / TRAINED)))
        waveform = config.model.waveform
        training_data = BatchDataset(training_clips(name, stage, train), train_cache, waveform, augmenters[name], seed)
        validation_data = BatchDataset(usable_clips(name, stage, validation), validation_cache, waveform)
        run_stage(config, name, stage, seed, folder, origin, model, training_data, validation_data)
    return TrainedStages(folders, start, train, noise)


def _check_memory(config: RunConfig, profile: Profile, clips: Sequence[Clip]) -> None:
    """Raise ValueError when the profile's memory cannot hold a stage's batch of the longest clips."""
    precision: Precision = "bf16-mixed" if config.trainer.get("precision") == "bf16-mixed" else "32-true"
    for name, stage in config.stages.items():
        longest = max((clip.seconds for clip in training_clips(name, stage, clips)), default=1.0)
        check_training(profile, config.model, name, stage, longest, config.max_label_tokens, precision)


def _load_start(stage: StageConfig, model: nn.Module, start: Mapping[str, Tensor]) -> None:
    """Load what the run starts from: all of it into a whole model, its own part into what is but a part of one."""
    load_state(model, start if isinstance(stage.objective, RecognitionObjectiveConfig) else _own(model, start))


def _own(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of ``state`` that is ``model``'s."""
    own = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    return {name: value for name, value in state.items() if name in own}


def _check_stage(
    config: RunConfig, name: str, start: Mapping[str, Tensor], train: Sequence[Clip], validation: Sequence[Clip]
) -> None:
    """Raise for whatever the stage would raise for at its start, without training it."""
    stage = config.stages[name]
    model = _build(config, stage, config.seed)
    _load_start(stage, model, start)
    trained = freeze_all_but(model, stage.trainable)
    set_modes(model, stage.drifting)
    if config.facts:
        check_trained(config.facts, stage, model)
    if stage.feature_variants:
        check_storable(config.model, trained)
    chosen = training_clips(name, stage, train)
    if config.sharded:
        check_same_layers(name, stage, model, chosen)
    objective = build_objective(stage.objective, config.model, model, chosen, config.seed)
    for clips in (chosen, usable_clips(name, stage, validation)):
        clip_sizes(objective, model, clips, config.label_limits)


@rank_zero_only
def _export(config: RunConfig, stages: TrainedStages) -> None:
    """Put what the run started from and what all stages trained into one checkpoint folder, if it is not there yet.

    It tells the longest clip that the last stage trained on, which says what the model can take, and the noise it was
    trained in, which is no noise to test it in.
    """
    folder, noise = config.output / "checkpoint", stages.noise
    name, stage = list(config.stages.items())[-1]
    training = {
        "domain": config.domain,
        "seed": config.seed,
        "longest_clip_seconds": max(clip.seconds for clip in training_clips(name, stage, stages.clips)),
        **({"noise": noise_marks(noise.recordings)} if noise else {}),
        "stages": {name: to_mapping(stage) for name, stage in config.stages.items()},
        "records": [json.loads((stage_folder / RECORD).read_text()) for stage_folder in stages.folders],
        "stored as": config.checkpoint_dtype,
        **({"start": start_record(config.start)} if config.start else {}),
    }
    if folder.is_dir() and training.items() <= read_info(folder).training.items():
        return
    model = build_model(config.model, config.seed)
    trained = dict(stages.start)
    for stage_folder in stages.folders:
        trained |= load_file(stage_folder / TRAINED)
    load_state(model, trained)
    dtype = getattr(torch, config.checkpoint_dtype)
    save_checkpoint(folder, model, trained, {**training, "commit": commit(), "date": today()}, dtype)
    log.info("checkpoint: %s", folder)


def run_stage(
    config: RunConfig,
    name: str,
    stage: StageConfig,
    seed: int,
    folder: Path,
    origin: Mapping[str, str | None],
    model: nn.Module,
    train: BatchDataset,
    validation: BatchDataset,
) -> None:
    """Train one stage, resuming it where its resume point stands, and write its trained tensors.

    Raises:
        ValueError: the stage cannot use a setting or a clip, or the trainer stopped before the last step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen = freeze_all_but(model, stage.trainable)
    if config.facts:
        check_trained(config.facts, stage, model)
    set_modes(model, stage.drifting)
    names = list(config.stages)
    number = names.index(name)
    place = f"stage {number + 1} of {len(names)}, {name}"
    after = f"; then {', '.join(names[number + 1 :])}" if names[number + 1 :] else ""
    log.info("%s: %d tensors to train in %d steps%s", place, len(chosen), stage.num_steps, after)
    if config.sharded:
        check_same_layers(name, stage, model, train.clips)
    torch.manual_seed(seed)
    objective = build_objective(stage.objective, config.model, model, train.clips, seed)
    sizes = clip_sizes(objective, model, train.clips, config.label_limits)
    plans = whole_plans(clip_sizes(objective, model, validation.clips, config.label_limits), VALIDATION_CLIPS)
    start = ResumePoint.load(folder / "resume.pt")
    module = StageModule(model, objective, name, stage, seed, start)
    done = start.step if start else 0
    trainer = build_trainer(
        config.trainer,
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
        inference_mode=False,  # shares that validation gathers, training uses again
        callbacks=[
            ResumeSaver(folder / "resume.pt", config.resume_seconds, config.resume_steps),
            TimeLimit(),
            Progress(place, config.log_every),
        ],
    )
    data: Dataset[Batch] = train
    if stage.feature_variants:
        assert isinstance(model, OmniAVSR)
        check_storable(config.model, chosen)
        device = trainer.strategy.root_device
        data = stored_features(config.output / "features", stage, model, train, config.seed, device)
    sampler = PlanSampler(sizes, stage.batching, stage.num_steps, seed, trainer.global_rank, trainer.world_size)
    sampler.start_step = done
    bind_results(folder, origin)
    # With no steps left too: it brings the processes of a distributed run together.
    with warnings.catch_warnings():
        # Frozen parts are in evaluation mode because they should be; an epoch is longer than a stage; and Lightning
        # still asks torch in a way that torch has renamed.
        for message in ("Found .* module.* in eval mode", "Consider setting `persistent_workers", ".*treespec"):
            warnings.filterwarnings("ignore", message)
        trainer.fit(module, plan_loader(data, sampler, config.data.num_workers), plan_loader(validation, plans, 0))
        if module.step < stage.num_steps and module.time_spent < 1:
            raise ValueError(
                f"stage {name} was stopped at step {module.step} of {stage.num_steps}, by trainer settings "
                f"({', '.join(config.trainer)}) or a signal; run again to go on from its last resume point"
            )
        if module.validated_step != module.step:  # a record tells of the final weights
            trainer.validate(module, plan_loader(validation, plans, 0), verbose=False)
    record = RunRecord(
        name, seed, commit(), today(), module.step, module.seconds,
        sum(value.numel() for value in model.parameters() if value.requires_grad), module.last_validation,
        asdict(module.flops),
    )  # fmt: skip
    trained = trained_state(model)
    if trainer.is_global_zero:
        write_atomically(folder / RECORD, json.dumps(asdict(record), indent=2))
        save_tensors(folder / TRAINED, trained)
        if "csv" in config.loggers:
            plot_stage(folder)
    close_loggers(trainer.loggers)
    trainer.strategy.barrier()  # no rank may look for these files before they are there


def _build(config: RunConfig, stage: StageConfig, seed: int) -> nn.Module:
    """The parts that the stage needs: an encoder stage never loads the LLM, and EmbedLink its embeddings alone."""
    if isinstance(stage.objective, EncoderObjectiveConfig):
        return build_encoders(config.model, seed, stage.objective.modalities)
    if isinstance(stage.objective, EmbedLinkObjectiveConfig) and config.model.markers.place == "beside":
        return build_without_decoder(config.model, seed)
    model = build_model(config.model, seed)
    if stage.gradient_checkpointing:
        model.router.enable_gradient_checkpointing(model.llm)
    return model
