"""Targets for every frame, beside a sequence loss: the word that is spoken there, or what the audio says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_avsr.encoders.access import ctc_parts, encoder_of
from omni_avsr.encoders.ctc import ALPHABET
from omni_avsr.types import IGNORE_INDEX, Batch, Clip, Features, Modality

MAX_FRAME_WORDS = 1000


@runtime_checkable
class FrameTargets(Protocol):
    """An ``nn.Module`` with a head of its own on the frames of the encoder that is trained."""

    def loss(self, model: nn.Module, batch: Batch, features: Features, modality: Modality) -> Tensor:
        """Mean loss over the scored frames of each clip [B]; ``features`` are those of ``modality``'s encoder."""
        ...


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
            raise ValueError("frame_targets words needs word times, and no training clip has any; leave words out")
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

    def loss(self, model: nn.Module, batch: Batch, features: Features, modality: Modality) -> Tensor:
        """Mean cross entropy over the scored frames of each clip [B]."""
        targets = self.targets(batch.clips, features, encoder_of(model, modality).frame_rate)
        logits = self.linear(features.values).float()
        losses = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORE_INDEX, reduction="none")
        return losses.sum(1) / (targets != IGNORE_INDEX).sum(1).clamp(min=1)


class AudioCTCFrameTargets(nn.Module):
    """Predicts in each video frame the character posteriors that the audio encoder's CTC head gives at that time."""

    def __init__(self, encoder_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(encoder_dim, len(ALPHABET) + 1)

    def loss(self, model: nn.Module, batch: Batch, features: Features, modality: Modality) -> Tensor:
        """Mean divergence from the audio's posteriors over the frames of each clip [B], in nats."""
        targets = self.targets(model, batch, features, modality)
        log_probs = F.log_softmax(self.linear(features.values).float(), dim=-1)
        divergence = F.kl_div(log_probs, targets, reduction="none").sum(-1).masked_fill(~features.mask(), 0.0)
        return divergence.sum(1) / features.lengths

    @staticmethod
    @torch.no_grad()
    def targets(model: nn.Module, batch: Batch, features: Features, modality: Modality) -> Tensor:
        """[B, T, characters + 1] probabilities: the teacher's, averaged over the time of each frame."""
        audio, head = ctc_parts(model, Modality.AUDIO)
        heard = head(audio(batch.inputs[Modality.AUDIO]))
        posteriors = Features(heard.values.exp(), heard.lengths)
        return per_frame(posteriors, features, audio.frame_rate / encoder_of(model, modality).frame_rate).mean(2)


class AudioFeatureFrameTargets(nn.Module):
    """Predicts in each video frame the audio encoder's features at that time, each normalised to mean 0, variance 1.

    After the auxiliary task of Ma, Petridis and Pantic (2022), who predict the features of a trained speech recogniser
    from lips by an L1 loss: unlike words or characters, features say which sounds are alike.
    """

    def __init__(self, encoder_dim: int, audio_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(encoder_dim, audio_dim)

    def loss(self, model: nn.Module, batch: Batch, features: Features, modality: Modality) -> Tensor:
        """Mean absolute error over the frames and features of each clip [B]."""
        errors = (self.linear(features.values).float() - self.targets(model, batch, features, modality)).abs()
        return errors.mean(-1).masked_fill(~features.mask(), 0.0).sum(1) / features.lengths

    @staticmethod
    @torch.no_grad()
    def targets(model: nn.Module, batch: Batch, features: Features, modality: Modality) -> Tensor:
        """[B, T, audio features], the mean over the time of each frame, normalised."""
        audio = encoder_of(model, Modality.AUDIO)
        heard = per_frame(
            audio(batch.inputs[Modality.AUDIO]), features, audio.frame_rate / encoder_of(model, modality).frame_rate
        )
        return F.layer_norm(heard.float().mean(2), heard.shape[-1:])


def per_frame(heard: Features, features: Features, ratio: float) -> Tensor:
    """What is heard during each frame of ``features``: [B, T, ratio, D].

    The streams may differ at the end, where the clip's last audio step stands in.

    Args:
        heard: [B, steps, D] of the same clips, ``ratio`` steps a frame.

    Raises:
        ValueError: the ratio is no whole number.
    """
    if ratio != int(ratio):
        raise ValueError(f"audio targets need a whole number of audio steps per frame, not {ratio:g}")
    time = features.values.shape[1]
    places = torch.arange(time * int(ratio), device=heard.values.device).minimum(heard.lengths[:, None] - 1)
    return heard.values.take_along_dim(places[..., None], dim=1).unflatten(1, (time, int(ratio)))
