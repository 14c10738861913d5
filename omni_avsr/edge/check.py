"""Refuse, with the numbers, what a profile's memory cannot hold, before anything is loaded."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from omni_avsr.compression import task_rates
from omni_avsr.config import ModelConfig
from omni_avsr.edge.budget import Profile
from omni_avsr.edge.device import DEFAULT, read_device
from omni_avsr.edge.ledger import Memory, MemoryConstants, planned_memory
from omni_avsr.edge.meter import GIB
from omni_avsr.edge.request import Request
from omni_avsr.edge.training_memory import Precision, Step, training_memory
from omni_avsr.features import VIDEO_FPS
from omni_avsr.stages import StageConfig
from omni_avsr.types import Task

log = logging.getLogger(__name__)


def check_transcribing(
    profile: Profile,
    model: ModelConfig,
    tasks: Sequence[Task],
    seconds: float,
    batch_size: int,
    num_beams: int,
    new_tokens: int,
) -> None:
    """Raise ValueError when a batch of clips of ``seconds`` at the lowest rates would pass the profile's memory."""
    ledger, constants = planned_memory(model), _constants(profile)
    for task in tasks:
        rates = min(task_rates(model.compression, task))
        request = Request(task, rates, seconds, new_tokens, num_beams, batch_size)
        _check(f"{task} of {batch_size} x {seconds:.1f} s", ledger.transcribing(request, constants), profile)


def check_training(
    profile: Profile,
    model: ModelConfig,
    name: str,
    stage: StageConfig,
    seconds: float,
    num_labels: int,
    precision: Precision,
) -> None:
    """Raise ValueError when the largest batch of a stage would pass the profile's memory.

    A stage that the ledger does not describe is let pass, with a warning. seconds, num_labels: of the longest clip.
    """
    frames = max(1, round(seconds * VIDEO_FPS))
    clips = max(1, min(stage.batching.max_clips, stage.batching.max_frames // frames))
    rates = min(task_rates(model.compression, max(model.tasks, key=lambda task: len(task.modalities))))
    step = Step(rates, seconds, clips, num_labels, precision)
    try:
        memory = training_memory(planned_memory(model), stage, step, _constants(profile))
    except ValueError as error:
        log.warning("whether stage %s fits in %.2f GiB is not foretold: %s", name, profile.process_gib, error)
        return
    _check(f"stage {name} with {clips} x {seconds:.1f} s", memory, profile)


def _constants(profile: Profile) -> MemoryConstants:
    return (DEFAULT if profile.device is None else read_device(profile.device)).memory


def _check(what: str, memory: Memory, profile: Profile) -> None:
    log.info("%s: %.2f GiB foretold of %.2f GiB", what, memory.peak / GIB, profile.process_gib)
    if memory.peak <= profile.process_bytes:
        return
    largest = sorted(memory.parts.items(), key=lambda part: -part[1])[:5]
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in largest)
    raise ValueError(
        f"{what} takes {memory.peak / GIB:.2f} GiB ({parts}), of {profile.process_gib:.2f} GiB that the profile leaves "
        f"to a process. Quantise the LLM (int8, nf4), make batches smaller, or ask omni-avsr plan-edge what fits"
    )
