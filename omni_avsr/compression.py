"""Matryoshka token compression: fewer frames for the LLM, at a rate that is chosen per step or per call."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from omni_avsr.config import CompressionConfig
from omni_avsr.types import Features, Modality, Rates, Task


def compress(features: Features, rate: int, config: CompressionConfig) -> Features:
    """Join every ``rate`` frames into one token (Omni-AVSR 1.2).

    Args:
        features: [B, T, D].
        rate: frames per token, at least 1.
        config: ``average`` gives the mean of each window, ``stack`` its frames side by side (zeros where the last
            window has none). ``tail`` keep makes a token of the last partial window, averaged over what it has; drop
            leaves it out, as published.

    Returns:
        Features [B, N, D] (average) or [B, N, rate * D] (stack); N = ceil(T / rate) with the tail, else floor.

    Raises:
        ValueError: dropping the tail would leave nothing of a clip.
    """
    if config.tail == "drop" and (shortest := int(features.lengths.min())) < rate:
        raise ValueError(f"a clip of {shortest} frames has no whole window at rate {rate}; use tail keep")
    return join_windows(features, rate, config)


def join_windows(features: Features, rate: int, config: CompressionConfig) -> Features:
    """``compress`` without its check, which needs to know the lengths."""
    values = features.values.masked_fill(~features.mask()[..., None], 0.0)
    lengths = num_tokens(features.lengths, rate, config)
    if config.tail == "drop":
        values = values[:, : values.shape[1] // rate * rate]
    else:
        values = F.pad(values, (0, 0, 0, -values.shape[1] % rate))
    batch, time, dim = values.shape
    windows = values.view(batch, time // rate, rate, dim)
    if config.mode == "stack":
        joined = windows.flatten(2)
    else:
        starts = torch.arange(0, time, rate, device=lengths.device)
        counts = (features.lengths[:, None] - starts).clamp(min=1, max=rate)
        joined = windows.sum(2) / counts[..., None].to(values.dtype)
    compressed = Features(joined, lengths)
    return Features(joined.masked_fill(~compressed.mask()[..., None], 0.0), lengths)


def num_tokens(lengths: Tensor, rate: int, config: CompressionConfig) -> Tensor:
    """Tokens that rows of ``lengths`` frames become at ``rate``."""
    return lengths // rate if config.tail == "drop" else -(-lengths // rate)


def draw_rates(config: CompressionConfig, seed: int, step: int) -> Rates:
    """One audio and one video rate for a training step (Omni-AVSR 1.4); the same on every rank."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % (2**63))
    audio = int(torch.randint(len(config.audio_rates), (), generator=generator))
    video = int(torch.randint(len(config.video_rates), (), generator=generator))
    return Rates(config.audio_rates[audio], config.video_rates[video])


def all_rates(config: CompressionConfig) -> list[Rates]:
    """Every pair of trained rates, audio first."""
    return [Rates(audio, video) for audio in config.audio_rates for video in config.video_rates]


def task_rates(config: CompressionConfig, task: Task) -> list[Rates]:
    """The pairs that differ for ``task``, audio first; of a modality that it does not read, the first rate."""
    audio = config.audio_rates if Modality.AUDIO in task.modalities else config.audio_rates[:1]
    video = config.video_rates if Modality.VIDEO in task.modalities else config.video_rates[:1]
    return [Rates(audio_rate, video_rate) for audio_rate in audio for video_rate in video]
