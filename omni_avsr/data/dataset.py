"""Clips to batches: read from the cache, augment, normalise, pad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.utils.data import Dataset

from omni_avsr.data.augment import Augmenter, centre_crop
from omni_avsr.data.batching import BatchPlan
from omni_avsr.data.cache import ClipCache
from omni_avsr.features import MOUTH_CROP, normalize_mouth, normalize_waveform
from omni_avsr.types import Batch, Clip, Example, Features, Modality

GENERATOR_PRIME = 2_147_483_647


def example_generator(seed: int, step: int, index: int) -> torch.Generator:
    """The source of randomness for one clip in one step: nothing to store, nothing to restore."""
    mixed = (seed * 1_000_003 + step) * 1_000_003 + index
    return torch.Generator().manual_seed(mixed % GENERATOR_PRIME)


class BatchDataset(Dataset[Batch]):
    """Makes the batch that a plan names. Without an augmenter clips are centre-cropped and clean."""

    def __init__(
        self,
        clips: Sequence[Clip],
        cache: ClipCache,
        waveform: Literal["raw", "layer_norm"] = "raw",
        augmenter: Augmenter | None = None,
        seed: int = 0,
    ) -> None:
        self.clips, self.cache, self.waveform = clips, cache, waveform
        self.augmenter, self.seed = augmenter, seed

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, plan: BatchPlan) -> Batch:
        examples = [self.example(index, plan.step) for index in plan.indices]
        return collate(examples, plan)

    def example(self, index: int, step: int = 0) -> Example:
        """One clip, read and (with an augmenter) changed as (seed, step, index) say."""
        clip = self.clips[index]
        waveform, video = self.cache.waveform(clip), self.cache.video(clip)
        generator = example_generator(self.seed, step, index)
        if self.augmenter is not None:
            video = None if video is None else self.augmenter.video(video, generator)
            waveform = None if waveform is None else self.augmenter.audio(waveform, generator)
        elif video is not None:
            video = centre_crop(video, MOUTH_CROP)
        if waveform is not None and self.waveform == "layer_norm":
            waveform = normalize_waveform(waveform)
        return Example(clip, waveform, None if video is None else normalize_mouth(video))


def collate(examples: Sequence[Example], plan: BatchPlan) -> Batch:
    """Pad examples of the same modalities into one batch."""
    inputs = {}
    for modality in Modality:
        rows = [values for example in examples if (values := example.values(modality)) is not None]
        if rows and len(rows) != len(examples):
            raise ValueError(f"only {len(rows)} of {len(examples)} clips of a batch have {modality}")
        if rows:
            inputs[modality] = Features.pad(rows)
    return Batch(tuple(example.clip for example in examples), inputs, plan.num_label_tokens, plan.num_clips, plan.step)
