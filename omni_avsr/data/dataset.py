"""Clips to batches: read from the cache, augment, normalise, pad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from omni_avsr.data.augment import Augmenter
from omni_avsr.data.batching import BatchPlan
from omni_avsr.features import prepare_video, prepare_waveform
from omni_avsr.media import read_audio, read_video
from omni_avsr.types import Batch, Clip, Example, Features, Modality

GENERATOR_PRIME = 2_147_483_647


class ClipReader(Protocol):
    """Where decoded clips come from."""

    def waveform(self, clip: Clip) -> Tensor | None:
        """[samples] float32 in [-1, 1), or None for a clip without audio."""
        ...

    def video(self, clip: Clip) -> Tensor | None:
        """[T, size, size] uint8 grey mouth crops, or None for a clip without video."""
        ...


class FileReader:
    """Decodes a clip's files each time it is asked: for one pass, where a cache would not pay."""

    def waveform(self, clip: Clip) -> Tensor | None:
        return torch.from_numpy(read_audio(clip.audio)) if clip.audio else None

    def video(self, clip: Clip) -> Tensor | None:
        return torch.from_numpy(read_video(clip.video, grey=True)) if clip.video else None


def example_generator(seed: int, step: int, index: int) -> torch.Generator:
    """The source of randomness for one clip in one step: nothing to store, nothing to restore."""
    mixed = (seed * 1_000_003 + step) * 1_000_003 + index
    return torch.Generator().manual_seed(mixed % GENERATOR_PRIME)


class BatchDataset(Dataset[Batch]):
    """Makes the batch that a plan names. Without an augmenter clips are centre-cropped and clean."""

    def __init__(
        self,
        clips: Sequence[Clip],
        reader: ClipReader,
        waveform: Literal["raw", "layer_norm"] = "raw",
        augmenter: Augmenter | None = None,
        seed: int = 0,
    ) -> None:
        self.clips, self.reader, self.waveform = clips, reader, waveform
        self.augmenter, self.seed = augmenter, seed

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, plan: BatchPlan) -> Batch:
        examples = [self.example(index, plan.step) for index in plan.indices]
        return collate(examples, plan)

    def example(self, index: int, step: int = 0) -> Example:
        """One clip, read and (with an augmenter) changed as (seed, step, index) say."""
        clip = self.clips[index]
        waveform, video = self.reader.waveform(clip), self.reader.video(clip)
        generator, snr_db = example_generator(self.seed, step, index), math.inf
        if self.augmenter is not None:
            video = None if video is None else self.augmenter.video(video, generator)
            if waveform is not None:
                waveform, snr_db = self.augmenter.audio(waveform, generator)
        waveform = None if waveform is None else prepare_waveform(waveform, self.waveform)
        return Example(clip, waveform, None if video is None else prepare_video(video), snr_db)


def collate(examples: Sequence[Example], plan: BatchPlan) -> Batch:
    """Pad examples of the same modalities into one batch."""
    inputs = {}
    for modality in Modality:
        rows = [values for example in examples if (values := example.values(modality)) is not None]
        if rows and len(rows) != len(examples):
            raise ValueError(f"only {len(rows)} of {len(examples)} clips of a batch have {modality}")
        if rows:
            inputs[modality] = Features.pad(rows)
    clips, snr_db = tuple(example.clip for example in examples), tuple(example.snr_db for example in examples)
    return Batch(clips, inputs, plan.num_label_tokens, plan.num_clips, plan.step, snr_db=snr_db)
