"""Enrol one person: train what a method says on a few clips of theirs, and keep it if it does not do worse.

Data flows one way: clips -> stages of a run, in a folder that goes away -> tensors -> error rates before and after ->
the person's folder (``users``). The checkpoint is only read.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file
from torch import Tensor

from omni_avsr.checkpoint import (
    TRAINED,
    changed_llm,
    checkpoint_sha256,
    load_checkpoint,
    on_device,
    read_info,
    stored_tensors,
)
from omni_avsr.config import STRICT, AnyProjectorConfig, ModelConfig, QuantizationChoice
from omni_avsr.data.config import DataConfig
from omni_avsr.data.manifest import read_manifest, write_manifest
from omni_avsr.decode import DecodeConfig
from omni_avsr.edge.budget import Profile
from omni_avsr.edge.check import check_transcribing
from omni_avsr.error_counts import count_errors, wer
from omni_avsr.provenance import commit, today
from omni_avsr.run import RunConfig, train_stages
from omni_avsr.scorer import Scorer, ScoringConfig
from omni_avsr.stages import StageConfig
from omni_avsr.start import StartConfig
from omni_avsr.types import Clip, Hypothesis, Task
from omni_avsr.users import Enrolment, read_enrolment, save_enrolment, unfinished_folder, user_folder

log = logging.getLogger(__name__)

LEAST_CLIPS = 4
"""Below, nothing is left to train on beside what is held back."""
LEAST_HELD_BACK = 2
_SPARE_TOKENS = 8
"""That a transcript may have more than the longest reference."""


@dataclass(frozen=True, config=STRICT)
class Method:
    """How one person is learnt. conf/personal has those that have a name.

    stages: as of any training. projector: in place of the checkpoint's, new. prompts: by task, in place of the
    checkpoint's.
    """

    stages: dict[str, StageConfig]
    projector: AnyProjectorConfig | None = None
    prompts: dict[Task, str] = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class PersonalConfig:
    """Whom to enrol, from what, and within which budget.

    clips: a manifest of theirs, of which clips of the split "train" are read, or all where there is none. speaker: of
    the manifest, the one. method_name: what to call ``method`` in the person's folder. others: a manifest of other
    talkers, whose error rate is told before and after. max_other_loss: how much that may rise, absolute; None: as it
    will. held_back: share of the clips that is not trained on, and decides.
    max_seconds: of training, all stages together. profile: the device, whose memory the training has to fit.
    quantization: of the LLM's weights, to train over and to score with; None: as the checkpoint has them.
    """

    checkpoint: Path
    clips: Path
    user: str
    method: Method
    method_name: str
    users: Path | None = None
    speaker: str | None = None
    others: Path | None = None
    max_other_loss: Annotated[float, Field(ge=0)] | None = None
    max_other_clips: Annotated[int, Field(gt=0)] = 40
    held_back: Annotated[float, Field(gt=0, lt=1)] = 0.2
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    profile: Profile | None = None
    quantization: QuantizationChoice | None = None
    trainer: dict[str, Any] = field(default_factory=lambda: {"accelerator": "cpu"})
    seed: Annotated[int, Field(ge=0)] = 7
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """What came of an enrolment. kept: whether the new weights are the person's now; reason: why not."""

    folder: Path
    enrolment: Enrolment
    kept: bool
    reason: str | None


def personalize(config: PersonalConfig) -> Outcome:
    """Enrol a person. Interrupted, it goes on where it was when it is called again with the same settings.

    What was learnt is kept if it errs no more on the clips that were held back than what there was before, which is the
    person's earlier weights, or else the checkpoint; then the earlier ones are replaced. The clips stay where they are,
    and what was made of them goes away.

    Raises:
        ValueError: the clips are too few, cannot be read or do not fit the checkpoint; the profile's memory cannot hold
            the training; or the settings differ from those of an interrupted enrolment.
    """
    folder, work = user_folder(config.user, config.users), unfinished_folder(config.user, config.users)
    enrolled, held_back = split_clips(own_clips(config), config.held_back, config.seed)
    others = _others(config, {clip.speaker for clip in enrolled if clip.speaker})
    run = _run_config(config, enrolled, held_back, work)
    _check_scoring(config.profile, run.model, [*held_back, *others])
    tensors: dict[str, Tensor] = {}
    for stage in train_stages(run).folders:  # later ones count
        tensors |= load_file(stage / TRAINED)
    enrolment = Enrolment(
        checkpoint_sha256(config.checkpoint),
        config.method_name,
        commit(),
        today(),
        config.seed,
        len(enrolled),
        round(sum(clip.seconds for clip in enrolled), 1),
        config.method.projector,
        config.method.prompts,
    )
    save_enrolment(work / "candidate", enrolment, tensors)
    before = folder if folder.exists() and _same_checkpoint(folder, enrolment) else None
    states = {"before": before, "after": work / "candidate"}
    sets = {"own": held_back, "others": others}
    rates = {name: _error_rates(config, user, sets, work / "scores" / name) for name, user in states.items()}
    own, other = ((rates["before"].get(name), rates["after"].get(name)) for name in sets)
    enrolment = replace(enrolment, own_wer=_pair(own), other_wer=_pair(other))
    reason = _reason_against(enrolment, config.max_other_loss)
    if reason is None:
        save_enrolment(folder, enrolment, tensors)
    shutil.rmtree(work)
    return Outcome(folder, enrolment, reason is None, reason)


def own_clips(config: PersonalConfig) -> list[Clip]:
    """The clips to learn a person from. ValueError: there are too few, or of several speakers."""
    clips = read_manifest(config.clips, check_files=True)
    if config.speaker is not None:
        clips = [clip for clip in clips if clip.speaker == config.speaker]
    clips = [clip for clip in clips if clip.split == "train"] or clips
    speakers = sorted({clip.speaker for clip in clips if clip.speaker})
    if len(speakers) > 1:
        raise ValueError(
            f"{config.clips} has clips of {len(speakers)} speakers ({', '.join(speakers[:5])} ...); choose one"
        )
    if len(clips) < LEAST_CLIPS:
        said = f" of {config.speaker}" if config.speaker else ""
        raise ValueError(f"{config.clips} has {len(clips)} clips{said}; at least {LEAST_CLIPS} are needed to enrol")
    return clips


def split_clips(clips: Sequence[Clip], held_back: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Clips to train on, and those to judge by, at least two, drawn by the seed; each in their order."""
    number = min(len(clips) - 1, max(LEAST_HELD_BACK, round(held_back * len(clips))))
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(seed))
    chosen = set(order[:number].tolist())
    return [c for i, c in enumerate(clips) if i not in chosen], [c for i, c in enumerate(clips) if i in chosen]


def _run_config(config: PersonalConfig, enrolled: Sequence[Clip], held_back: Sequence[Clip], work: Path) -> RunConfig:
    model = read_info(config.checkpoint).model
    method = config.method
    split = {"train": enrolled, "validation": held_back}
    for name, clips in split.items():
        write_manifest(work / f"{name}.jsonl", [replace(clip, split=name) for clip in clips])
    stages = method.stages
    if config.max_seconds is not None:
        stages = _within(stages, config.max_seconds)
    return RunConfig(
        model=replace(
            changed_llm(model, None, config.quantization),
            projector=method.projector or model.projector,
            prompts=model.prompts | method.prompts,
        ),
        data=DataConfig(manifests=tuple(work / f"{name}.jsonl" for name in split), cache=work / "clips"),
        stages=stages,
        output=work / "run",
        seed=config.seed,
        trainer=config.trainer,
        loggers=("csv",),
        start=StartConfig(config.checkpoint, _start_parts(config.checkpoint, method)),
        profile=config.profile,
        resume_seconds=30.0,
    )


def _start_parts(checkpoint: Path, method: Method) -> tuple[str, ...]:
    """Globs over all that the checkpoint has, but for projectors that the method brings new ones for."""
    parts = sorted({name.split(".")[0] for name in stored_tensors(checkpoint)})
    return tuple(f"{part}.*" for part in parts if method.projector is None or part != "projectors")


def _within(stages: Mapping[str, StageConfig], seconds: float) -> dict[str, StageConfig]:
    """The stages, each with a share of the time as it has one of all steps."""
    steps = sum(stage.num_steps for stage in stages.values())
    return {name: replace(s, max_seconds=seconds * s.num_steps / steps) for name, s in stages.items()}


def _others(config: PersonalConfig, own: set[str]) -> list[Clip]:
    """Test clips of other talkers, spread over them."""
    if config.others is None:
        return []
    clips = [clip for clip in read_manifest(config.others, check_files=True) if clip.speaker not in own]
    clips = [clip for clip in clips if clip.split == "test"] or clips
    if not clips:
        raise ValueError(f"{config.others} has no clip of another talker")
    return clips[:: math.ceil(len(clips) / config.max_other_clips)]


def _check_scoring(profile: Profile | None, model: ModelConfig, clips: Sequence[Clip]) -> None:
    """ValueError: the profile cannot hold the whole model on these clips, which a stage without the LLM may hide."""
    if profile is not None:
        tasks = [task for task in model.tasks if any(set(task.modalities) <= set(clip.modalities) for clip in clips)]
        longest = max(clip.seconds for clip in clips)
        check_transcribing(profile, model, tasks, longest, ScoringConfig().batch_size, 1, DecodeConfig().max_new_tokens)


def _same_checkpoint(folder: Path, enrolment: Enrolment) -> bool:
    return read_enrolment(folder).checkpoint_sha256 == enrolment.checkpoint_sha256


def _error_rates(
    config: PersonalConfig, user: Path | None, sets: Mapping[str, Sequence[Clip]], folder: Path
) -> dict[str, float]:
    """Word error rates on sets of clips, at all rates, of the tasks that the person's own clips serve.

    Of an empty set there is none.
    """
    model = on_device(load_checkpoint(config.checkpoint, quantization=config.quantization, user=user), config.device)
    tasks = [t for t in model.config.tasks if any(set(t.modalities) <= set(c.modalities) for c in sets["own"])]
    found = {}
    for name, clips in sets.items():
        if clips:
            longest = max(len(model.text.encode(clip.text)) for clip in clips) + _SPARE_TOKENS
            settings = ScoringConfig(decode=DecodeConfig(max_new_tokens=longest))
            scorer = Scorer(model, clips, tasks, settings, None, ())
            groups: dict[tuple[Task, str], list[Hypothesis]] = {}
            for hypothesis in scorer.run(folder / f"{name}.jsonl", f"{name}, {folder.name}"):
                groups.setdefault((hypothesis.task, hypothesis.rates), []).append(hypothesis)
            found[name] = wer([counts for group in groups.values() for counts in count_errors(group)])
    return found


def _pair(rates: tuple[float | None, float | None]) -> tuple[float, float] | None:
    before, after = rates
    return None if before is None or after is None else (before, after)


def _reason_against(enrolment: Enrolment, max_other_loss: float | None) -> str | None:
    """Why the new weights are not kept; None when they are."""
    assert enrolment.own_wer is not None, "clips are always held back"
    before, after = enrolment.own_wer
    if after > before:
        return f"WER on the clips held back rose from {before:.1%} to {after:.1%}"
    if enrolment.other_wer is not None and max_other_loss is not None:
        before, after = enrolment.other_wer
        if after > before + max_other_loss:
            return f"WER on other talkers rose from {before:.1%} to {after:.1%}, more than {max_other_loss:.1%}"
    return None
