"""Which clips form which batch: a plan that is a pure function of the seed, so that any step can be returned to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic.dataclasses import dataclass as settings
from torch.utils.data import Sampler

from omni_avsr.config import STRICT, Positive
from omni_avsr.types import Modality, Task

POOL_BATCHES = 32
"""Clips are sorted by length only inside pools of about this many batches, so that batches differ between epochs."""


@settings(frozen=True, config=STRICT)
class BatchingConfig:
    """A batch holds at most ``max_clips`` clips and ``max_frames`` padded video frames (40 ms each, audio alike).

    ``composition`` drawn puts other clips together in each epoch; fixed, as published (Omni-AVSR 1.8 E9), the same
    ones, in another order of batches.
    """

    max_clips: Positive = 16
    max_frames: Positive = 1500
    accumulation: Positive = 1
    composition: Literal["drawn", "fixed"] = "drawn"


@dataclass(frozen=True)
class ClipSize:
    """What the planner has to know of a clip: padded length in video frames, scored tokens, and its modalities."""

    frames: int
    label_tokens: int
    modalities: tuple[Modality, ...]


@dataclass(frozen=True)
class BatchPlan:
    """One micro-batch of one rank.

    indices: places of the clips in the dataset.
    step: the optimizer step it belongs to; seeds the augmentation together with the index.
    num_label_tokens: per task, over the whole global batch of that step.
    num_clips: clips of the whole global batch.
    """

    indices: tuple[int, ...]
    step: int
    num_label_tokens: Mapping[Task, int] = field(default_factory=dict)
    num_clips: int = 0


def plan_epoch(sizes: Sequence[ClipSize], config: BatchingConfig, seed: int, epoch: int) -> list[tuple[int, ...]]:
    """The epoch's batches: every clip once, similar lengths together, all of a batch with the same modalities."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    composer = generator if config.composition == "drawn" else torch.Generator().manual_seed(seed % 2**63)
    order = torch.randperm(len(sizes), generator=composer).tolist()
    pool = POOL_BATCHES * config.max_clips
    batches: list[tuple[int, ...]] = []
    for modalities in sorted({size.modalities for size in sizes}):
        group = [index for index in order if sizes[index].modalities == modalities]
        for start in range(0, len(group), pool):
            batches += _fill(sorted(group[start : start + pool], key=lambda index: sizes[index].frames), sizes, config)
    shuffle = torch.randperm(len(batches), generator=generator).tolist()
    return [batches[index] for index in shuffle]


def _fill(indices: Sequence[int], sizes: Sequence[ClipSize], config: BatchingConfig) -> Iterator[tuple[int, ...]]:
    batch: list[int] = []
    for index in indices:  # ascending lengths, so the newest clip is the longest and sets the padded size
        if batch and (len(batch) == config.max_clips or (len(batch) + 1) * sizes[index].frames > config.max_frames):
            yield tuple(batch)
            batch = []
        batch.append(index)
    if batch:
        yield tuple(batch)


class PlanSampler(Sampler[BatchPlan]):
    """Yields one rank's batch plans from ``start_step`` on to ``num_steps``; its state is that one number.

    The epochs' batches form one endless stream; optimizer step k takes the next ``world_size * accumulation`` of them,
    so no clip is dropped or repeated at an epoch's end, and every rank knows the token totals of the global batch
    without talking to the others.
    """

    def __init__(
        self,
        sizes: Sequence[ClipSize],
        config: BatchingConfig,
        num_steps: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not sizes:
            raise ValueError("there are no clips to train on")
        self.sizes, self.config, self.num_steps, self.seed = sizes, config, num_steps, seed
        self.rank, self.world_size = rank, world_size
        self.start_step = 0

    def __iter__(self) -> Iterator[BatchPlan]:
        stream = self._stream()
        for step in range(self.num_steps):
            group = [next(stream) for _ in range(self.world_size * self.config.accumulation)]
            if step < self.start_step:
                continue
            label_tokens = {task: self._label_tokens(group, task) for task in Task}
            num_clips = sum(map(len, group))
            for micro in range(self.config.accumulation):
                indices = group[micro * self.world_size + self.rank]
                yield BatchPlan(indices, step, label_tokens, num_clips)

    def _stream(self) -> Iterator[tuple[int, ...]]:
        epoch = 0
        while True:
            yield from plan_epoch(self.sizes, self.config, self.seed, epoch)
            epoch += 1

    def _label_tokens(self, batches: Sequence[Sequence[int]], task: Task) -> int:
        sizes = (self.sizes[index] for batch in batches for index in batch)
        needed = set(task.modalities)
        return sum(size.label_tokens for size in sizes if needed <= set(size.modalities))
