"""Video that contradicts the audio for a moment, so that training shows which of the two to believe when.

On training clips the lips are right almost always, because their encoder has seen these very clips; on new ones they
are not. A model that never saw them err follows them even where the audio is clear.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch

from omni_avsr.data.augment import uniform
from omni_avsr.data.dataset import example_generator
from omni_avsr.types import Clip, Features


def with_conflicts(
    features: Features, clips: Sequence[Clip], shares: Sequence[float], longest: int, seed: int, step: int
) -> Features:
    """Overwrite a stretch of some rows with what another row has at the same time.

    Args:
        features: [B, T, D] of one modality.
        clips: of the rows; what a row draws depends on (seed, step, its clip's id).
        shares: how probably each row is changed, 0 to 1. A batch of one clip has no other and stays as it is.
        longest: steps that a stretch has at most, at least 1.

    Returns:
        Features of the same lengths; ``features`` stay as they were.
    """
    num_rows = len(clips)
    if num_rows < 2:
        return features
    lengths = features.lengths.tolist()
    values = features.values.clone()
    for row, (clip, share) in enumerate(zip(clips, shares, strict=True)):
        generator = example_generator(seed, step, zlib.crc32(clip.id.encode()))
        if uniform(0, 1, generator) >= share:
            continue
        other = (row + 1 + int(torch.randint(num_rows - 1, (), generator=generator))) % num_rows
        shared = min(lengths[row], lengths[other])
        length = 1 + int(torch.randint(min(longest, shared), (), generator=generator))
        start = int(torch.randint(shared - length + 1, (), generator=generator))
        values[row, start : start + length] = features.values[other, start : start + length]
    return Features(values, features.lengths)
