"""A stage of training as data: an objective, the exact names it trains, and how long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from omni_avsr.config import PUBLISHED_TASK_WEIGHTS, STRICT, Positive
from omni_avsr.data.augment import AugmentConfig
from omni_avsr.data.batching import BatchingConfig
from omni_avsr.types import Modality, Task

NonNegative = Annotated[float, Field(ge=0)]
FrameTarget = Literal["words", "audio_ctc", "audio_features"]

MAX_NAMED = 20
"""Names that an error message gives as examples."""


@dataclass(frozen=True, config=STRICT)
class MixupConfig:
    """In this share of the clips another clip shows through, by at most so much weight."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    weight: Annotated[float, Field(gt=0, le=0.5)] = 0.4


@dataclass(frozen=True, config=STRICT)
class CTCObjectiveConfig:
    """Train one encoder alone by CTC on characters, with a target for every frame beside it.

    ``frame_targets`` are targets with their weights. words: the aligned word, for corpora with word times. For the
    video encoder, what the frozen audio encoder says at that time, which needs no alignment: audio_ctc, its CTC head,
    trained in an earlier stage; audio_features, its features (after Ma, Petridis and Pantic 2022). ``mixup`` is
    against learning few clips by heart (null: none).
    """

    modality: Modality
    kind: Literal["ctc"] = "ctc"
    frame_targets: dict[FrameTarget, NonNegative] = field(default_factory=dict)
    mixup: MixupConfig | None = None

    def __post_init__(self) -> None:
        if self.hears_teacher and self.modality is Modality.AUDIO:
            raise ValueError(
                f"frame_targets {', '.join(self.frame_targets)}: audio targets teach the video encoder; the audio "
                "encoder cannot teach itself"
            )

    @property
    def hears_teacher(self) -> bool:
        """Whether a target is what the audio encoder says."""
        return any(target.startswith("audio_") for target in self.frame_targets)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The encoders that the objective runs."""
        return (Modality.AUDIO, Modality.VIDEO) if self.hears_teacher else (self.modality,)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(task for task in Task if task.modalities == self.modalities)


@dataclass(frozen=True, config=STRICT)
class DecoderObjectiveConfig:
    """Train the Whisper encoder alone by the cross entropy of its own decoder (EFIN, stage 1).

    ``language`` is a code such as "en" for a multilingual Whisper, null for an English-only one.
    """

    kind: Literal["whisper_decoder"] = "whisper_decoder"
    language: str | None = None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The encoders that the objective runs."""
        return (Modality.AUDIO,)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return (Task.ASR,)


@dataclass(frozen=True, config=STRICT)
class ConflictConfig:
    """Moments at which AVSR sees another clip's video: in this share of the clips, for at most so many seconds.

    ``min_snr_db`` leaves clips alone whose audio is noisier, where following the lips is right (null: none).
    """

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    seconds: Annotated[float, Field(gt=0)] = 1.0
    min_snr_db: float | None = None


@dataclass(frozen=True, config=STRICT)
class RecognitionObjectiveConfig:
    """Train through the LLM: one audio and one video rate a step, all tasks, weighted (Omni-AVSR 1.3 and 1.4).

    ``rates`` all, as Llama-MTSK has it: every pair that differs for a task in every step, and a task's loss is the mean
    over them.
    ``averaging`` tokens: a step's loss is the mean over all tokens of its global batch. clips, as published (1.8 D6):
    the mean over each micro-batch's own tokens, divided by the clips of the global batch, so that batches of few, long
    clips count for more; validation, which has no global batches, does not divide. ``score_padding``, as published for
    Qwen (D7): the eos under the padding is scored, and attended.
    ``conflict`` is ours; the published recipe has none (null).
    """

    kind: Literal["recognition"] = "recognition"
    rates: Literal["drawn", "all"] = "drawn"
    averaging: Literal["tokens", "clips"] = "tokens"
    score_padding: bool = False
    task_weights: dict[Task, NonNegative] = field(default_factory=lambda: dict(PUBLISHED_TASK_WEIGHTS))
    conflict: ConflictConfig | None = None

    def __post_init__(self) -> None:
        if self.score_padding and self.averaging == "tokens":
            raise ValueError("score_padding needs averaging clips: padding is not counted before a batch is made")

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(self.task_weights)


@dataclass(frozen=True, config=STRICT)
class EmbedLinkObjectiveConfig:
    """Train projectors towards the LLM's embeddings of what is said, without an LLM pass (Tiny-Align's EmbedLink).

    ``targets`` pooled: the embeddings of the whole transcript, pooled to as many vectors as the projector gives, which
    is the paper's way for a projector of fixed length. words, ours: the word spoken in a token's middle, by the times
    that the corpus has; heard, ours: by those that the encoder's CTC head finds.
    ``cosine_weight`` is of the cosine distance, beside the squared error in variances of the embeddings; the paper
    does not state it. ``contrast_weight``, ours: of the cross entropy of a token's cosines with the whole vocabulary,
    divided by ``temperature``.
    """

    kind: Literal["embed_link"] = "embed_link"
    targets: Literal["words", "pooled", "heard"] = "words"
    cosine_weight: NonNegative = 1.0
    contrast_weight: NonNegative = 0.0
    temperature: Annotated[float, Field(gt=0)] = 0.07

    @property
    def tasks(self) -> tuple[Task, ...]:
        return (Task.ASR, Task.VSR)


EncoderObjectiveConfig = CTCObjectiveConfig | DecoderObjectiveConfig
"""Objectives on encoders alone; all others need the whole model."""

ObjectiveConfig = Annotated[
    EncoderObjectiveConfig | EmbedLinkObjectiveConfig | RecognitionObjectiveConfig, Field(discriminator="kind")
]


@dataclass(frozen=True, config=STRICT)
class OptimizerConfig:
    """AdamW, linear warm-up and a cosine to zero, as published (Omni-AVSR 1.5); ``clip_norm`` bounds gradients.

    ``schedule`` constant keeps the rate after the warm-up, so that a longer run begins as a shorter one does.
    """

    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: NonNegative = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    schedule: Literal["cosine", "constant"] = "cosine"


@dataclass(frozen=True, config=STRICT)
class StageConfig:
    """One stage. ``trainable`` are globs over parameter names; all others are frozen.

    ``clips`` are globs over the ids of the training clips that the stage reads; validation has no such choice.
    ``feature_variants`` above 0, for stages that train no encoder: each clip is encoded once in so many augmented
    variants, and every step draws one of them. ``gradient_checkpointing`` trades LLM compute for memory.
    ``max_seconds`` ends the stage at that time if ``num_steps`` take longer, with a schedule that is then at its end:
    for a budget of time; such a result depends on the machine.
    """

    objective: ObjectiveConfig
    trainable: tuple[str, ...]
    num_steps: Positive
    clips: tuple[str, ...] = ("*",)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)
    feature_variants: Annotated[int, Field(ge=0)] = 0
    gradient_checkpointing: bool = False
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    drifting: tuple[str, ...] = ()
    validate_every: Positive = 200

    def __post_init__(self) -> None:
        if self.drifting and self.feature_variants:
            raise ValueError("drifting modules give other features at every step; set feature_variants to 0")
        augment = self.augment
        teaches = isinstance(self.objective, CTCObjectiveConfig) and self.objective.hears_teacher
        if teaches and augment and (augment.audio_mask_samples or any(level is not None for level in augment.snr_db)):
            raise ValueError(
                "targets that the audio gives need clean audio: set augment.snr_db=[] and augment.audio_mask_samples=0"
            )


def matching_names(names: Iterable[str], globs: Iterable[str], what: str) -> set[str]:
    """The names that match any glob; ``what`` they are is for the message.

    Raises:
        ValueError: a glob matches nothing, which is always a mistake.
    """
    names = list(names)
    matched: set[str] = set()
    for glob in globs:
        hits = {name for name in names if fnmatchcase(name, glob)}
        if not hits:
            parts = sorted({".".join(name.split(".")[:2]) for name in names})[:MAX_NAMED]
            raise ValueError(f"{glob!r} matches no {what}; there are {', '.join(parts)} ...")
        matched |= hits
    return matched


def freeze_all_but(model: nn.Module, globs: Iterable[str]) -> set[str]:
    """Make exactly the parameters that match ``globs`` trainable; returns their names.

    Raises:
        ValueError: a glob matches nothing, or a quantised weight.
    """
    chosen = matching_names((name for name, _ in model.named_parameters()), globs, "parameter to train")
    own = dict(model.named_parameters())
    if quantised := sorted(name for name in chosen if not own[name].is_floating_point()):
        raise ValueError(f"{len(quantised)} weights to train are quantised, such as {quantised[0]}: they stay frozen")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    return chosen


def set_modes(model: nn.Module, drifting: Sequence[str] = ()) -> None:
    """Training mode where a part is trained, evaluation mode where it is frozen (dropout and batch norm included).

    A module is in training mode when all parameters below it are trained; a parameter-free one (dropout) when a sibling
    is. So an LLM's frozen layers stay in evaluation mode around their adapters, and adapter dropout is active.

    drifting: globs over the names of modules that are in training mode with all below them, frozen or not.

    Raises:
        ValueError: a glob matches nothing.
    """
    model.eval()
    _set_mode(model)
    modules = dict(model.named_modules())
    for name in matching_names(modules, drifting, "module to leave in training mode"):
        modules[name].train()


def _set_mode(module: nn.Module) -> bool:
    own = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
    children = {child: any(True for _ in child.parameters()) for child in module.children()}
    below = [_set_mode(child) for child, has_parameters in children.items() if has_parameters]
    module.training = bool(own or below) and all(own) and all(below)
    if any(own) or any(below):
        for child, has_parameters in children.items():
            if not has_parameters:
                child.train()
    return module.training
