"""Targets for every frame, beside a sequence loss: the word that is spoken there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_avsr.types import IGNORE_INDEX, Clip, Features

MAX_FRAME_WORDS = 1000


class WordFrameTargets(nn.Module):
    """Predicts which word is spoken in each frame, from word times; helps CTC to find its alignment early.

    Classes: 0 is silence, then the training set's most frequent words. Frames of rarer words, and clips without word
    times, are not scored.
    """

    def __init__(self, encoder_dim: int, words: Sequence[str]) -> None:
        super().__init__()
        self.ids = {word: index + 1 for index, word in enumerate(words)}
        self.linear = nn.Linear(encoder_dim, len(words) + 1)

    @staticmethod
    def vocabulary(clips: Sequence[Clip]) -> list[str]:
        """The most frequent words that have times, most frequent first.

        Raises:
            ValueError: no clip has word times.
        """
        counts = Counter(word.text for clip in clips for word in clip.words)
        if not counts:
            raise ValueError("frame_targets=words needs word times, and no training clip has any; use none")
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return ranked[:MAX_FRAME_WORDS]

    def targets(self, clips: Sequence[Clip], features: Features, frame_rate: float) -> Tensor:
        """[B, T] class of each frame, by the frame's middle; IGNORE_INDEX where it is not scored."""
        targets = torch.full(features.values.shape[:2], IGNORE_INDEX, dtype=torch.int64)
        for row, (clip, length) in enumerate(zip(clips, features.lengths.tolist(), strict=True)):
            if not clip.words:
                continue
            targets[row, :length] = 0
            times = (torch.arange(length) + 0.5) / frame_rate
            for word in clip.words:
                inside = (times >= word.start) & (times < word.end)
                targets[row, :length][inside] = self.ids.get(word.text, IGNORE_INDEX)
        return targets.to(features.values.device)

    def loss(self, clips: Sequence[Clip], features: Features, frame_rate: float) -> Tensor:
        """Mean cross entropy over the scored frames of each clip [B]."""
        targets = self.targets(clips, features, frame_rate)
        logits = self.linear(features.values).float()
        losses = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORE_INDEX, reduction="none")
        return losses.sum(1) / (targets != IGNORE_INDEX).sum(1).clamp(min=1)
