"""Two clips seen through each other, and both transcripts scored: harder to learn by heart than either alone.

Mixup (Zhang and others 2018) as MixSpeech (Meng and others 2021) applies it to CTC: the inputs are added up, and so are
the losses, each transcript's by the weight of its clip.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omni_avsr.data.augment import uniform
from omni_avsr.data.dataset import example_generator
from omni_avsr.types import Batch, Clip, Features, Modality


@dataclass(frozen=True)
class Mixed:
    """Inputs through whose rows other rows show.

    inputs: of one modality. A mixed row is as long as the longer of its two clips.
    other: the batch of the clips that show through, row by row.
    weights: [B] how much of them shows, 0 to 0.5; the rest is the row's own clip.
    """

    inputs: Features
    other: Batch
    weights: Tensor


def mix(batch: Batch, modality: Modality, share: float, weight: float, seed: int) -> Mixed:
    """Let the next row's clip show through some rows.

    Args:
        modality: the inputs that are mixed.
        share: of the rows that are mixed, 0 to 1; what a row draws depends on (seed, the batch's step, its clip's id).
        weight: the most that shows of the other clip, at most 0.5; drawn evenly from 0 on.
    """
    own, other = batch.inputs[modality], _next_rows(batch)
    weights = torch.tensor([_draw(clip, share, weight, seed, batch.step) for clip in batch.clips])
    weights = weights.to(own.values.device)
    through = other.inputs[modality]
    lengths = torch.where(weights > 0, own.lengths.maximum(through.lengths), own.lengths)
    values = _weighted(own, 1 - weights) + _weighted(through, weights)
    return Mixed(Features(values, lengths), other, weights)


def _draw(clip: Clip, share: float, weight: float, seed: int, step: int) -> float:
    generator = example_generator(seed, step, zlib.crc32(clip.id.encode()))
    return uniform(0, weight, generator) if uniform(0, 1, generator) < share else 0.0


def _next_rows(batch: Batch) -> Batch:
    """The batch with each row replaced by the next one, the last by the first."""
    inputs = {
        modality: Features(features.values.roll(-1, 0), features.lengths.roll(-1, 0))
        for modality, features in batch.inputs.items()
    }
    return replace(batch, clips=(*batch.clips[1:], batch.clips[0]), inputs=inputs)


def _weighted(features: Features, weights: Tensor) -> Tensor:
    """The values times each row's weight; zero behind its length."""
    factors = weights[:, None] * features.mask()
    return features.values * factors.view(*factors.shape, *(1 for _ in features.values.shape[2:]))
