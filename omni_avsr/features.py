"""Turn raw waveforms into log-mel features and raw mouth crops into normalised ones; the numbers both depend on."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from omni_avsr.types import Features

SAMPLE_RATE = 16_000
"""Samples a second of every waveform."""
N_FFT = 400
"""Samples under one analysis window (25 ms)."""
HOP = 160
"""Samples from one log-mel frame to the next (10 ms)."""
NUM_MELS = 80
MEL_FRAME_RATE = SAMPLE_RATE // HOP
VIDEO_FPS = 25
SAMPLES_PER_VIDEO_FRAME = SAMPLE_RATE // VIDEO_FPS

MOUTH_SIZE = 96
"""Height and width of a stored mouth crop, in pixels."""
MOUTH_CROP = 88
"""Height and width of the part of it that a model sees."""
MOUTH_MEAN = 0.421
MOUTH_STD = 0.165

_POWER_FLOOR = 1e-10
_DYNAMIC_RANGE = 8.0
_WAVEFORM_EPS = 1e-8
# A window reaches N_FFT // 2 samples to both sides of its centre, so two frames behind a clip still hear its end.
FRAMES_THAT_HEAR_THE_END = math.ceil(N_FFT / 2 / HOP)


def num_mel_frames(num_samples: Tensor) -> Tensor:
    """Frames of clips of ``num_samples`` samples: one per started hop of 10 ms."""
    return (num_samples + HOP - 1) // HOP


def log_mel(waveforms: Features, num_mels: int = NUM_MELS) -> Features:
    """Whisper's log-mel features of each clip's own frames.

    The numbers are those of Whisper's feature extractor, which sets the clip into 30 s of zeros. One frame differs: a
    clip that ends within its last 2.5 ms is mirrored there at the 30 s mark, and hears zeros here, where the length of
    a clip has no limit.

    Args:
        waveforms: values [B, samples], 16 kHz; what stands behind a row's length is ignored.
        num_mels: mel bands (80; 128 for Whisper large-v3).

    Returns:
        Features [B, frames, num_mels] float32 on the waveforms' device, without gradient; lengths = ceil(samples/160),
        zeros behind them.
    """
    lengths = num_mel_frames(waveforms.lengths)
    num_frames = math.ceil(waveforms.values.shape[1] / HOP)
    values = log_mel_window(waveforms, num_frames + FRAMES_THAT_HEAR_THE_END, num_mels)[:, :num_frames]
    features = Features(values, lengths)
    return Features(values.masked_fill(~features.mask()[..., None], 0.0), lengths)


@torch.no_grad()
def log_mel_window(waveforms: Features, num_frames: int, num_mels: int = NUM_MELS) -> Tensor:
    """Whisper's log-mel features of each clip set into a window of ``num_frames`` frames of silence.

    Frames behind a clip are not zeroed: they hold what the silence gives, which depends on the clip's loudest band
    (the dynamic range is cut 8 decades below it). With ``num_frames`` 3000 this is exactly Whisper's own 30 s input.

    Args:
        waveforms: values [B, samples], 16 kHz; what stands behind a row's length is ignored.
        num_frames: frames of the window. A frame depends on the window only through the clip's maximum and, in the
            last two frames, through the mirroring at the window's end.
        num_mels: mel bands.

    Returns:
        [B, num_frames, num_mels] float32 on the waveforms' device.

    Raises:
        ValueError: a clip is longer than the window.
    """
    num_samples = num_frames * HOP
    longest = int(waveforms.lengths.max())
    if longest > num_samples:
        raise ValueError(f"a clip has {longest} samples, the log-mel window {num_samples} ({num_frames} frames)")
    values = waveforms.values.masked_fill(~waveforms.mask(), 0.0).float()[:, :num_samples]
    values = F.pad(values, (0, num_samples - values.shape[1]))
    # Autocast would do the mel product in half precision, and quiet bands would drown.
    with torch.autocast(values.device.type, enabled=False):
        window = torch.hann_window(N_FFT, dtype=torch.float32, device=values.device)
        spectrum = torch.stft(values, N_FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
        power = spectrum[..., :-1].abs().square()
        mel_power = _mel_filters(num_mels).to(values.device) @ power
    decades = mel_power.clamp(min=_POWER_FLOOR).log10()
    decades = torch.maximum(decades, decades.amax(dim=(1, 2), keepdim=True) - _DYNAMIC_RANGE)
    return ((decades + 4.0) / 4.0).transpose(1, 2)


def normalize_waveform(waveform: Tensor) -> Tensor:
    """Mean 0 and variance 1 over one clip [samples] without padding, as Omni-AVSR's published code feeds its encoders.

    Whisper itself was trained on waveforms as they are, so this is the caller's choice. The small constant under the
    root (1e-8, as published) leaves digital silence at zero.
    """
    return F.layer_norm(waveform.float(), waveform.shape, eps=_WAVEFORM_EPS)


def normalize_mouth(video: Tensor) -> Tensor:
    """Grey mouth crops [..., height, width] of 0..255 -> float32 with about mean 0 and variance 1 (AV-HuBERT's)."""
    return (video.float() / 255.0 - MOUTH_MEAN) / MOUTH_STD


def centre_crop(crops: Tensor, size: int = MOUTH_CROP) -> Tensor:
    """[..., H, W] -> [..., size, size], as at validation and test. ValueError when the crops are smaller."""
    height, width = crops.shape[-2:]
    if min(height, width) < size:
        raise ValueError(f"mouth crops of {height} x {width} pixels are smaller than the {size} a model sees")
    top, left = (height - size) // 2, (width - size) // 2
    return crops[..., top : top + size, left : left + size]


def prepare_video(crops: Tensor) -> Tensor:
    """[T, H, W] uint8 mouth crops -> [T, 88, 88] float32, normalised; cut at the centre unless they are cut already."""
    return normalize_mouth(centre_crop(crops))


def prepare_waveform(waveform: Tensor, normalisation: Literal["raw", "layer_norm"]) -> Tensor:
    """[samples] float32 as decoded -> as the model's encoder was trained on it."""
    return normalize_waveform(waveform) if normalisation == "layer_norm" else waveform


@lru_cache(maxsize=4)
def _mel_filters(num_mels: int) -> Tensor:
    """[num_mels, N_FFT // 2 + 1] triangles between neighbouring centres on Slaney's mel scale, each of unit area."""
    nyquist = SAMPLE_RATE / 2
    top = 15.0 + math.log(nyquist / 1000.0) * 27.0 / math.log(6.4)
    mels = torch.linspace(0.0, top, num_mels + 2, dtype=torch.float64, device="cpu")
    # Slaney's scale: 3 mels to 200 Hz up to 1 kHz (15 mels), then 27 mels to a factor of 6.4.
    edges = torch.where(mels < 15.0, mels * 200.0 / 3.0, 1000.0 * torch.exp((mels - 15.0) * math.log(6.4) / 27.0))
    bins = torch.linspace(0.0, nyquist, N_FFT // 2 + 1, dtype=torch.float64, device="cpu")
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - lower) / (centre - lower)
    falling = (upper - bins) / (upper - centre)
    triangles = torch.minimum(rising, falling).clamp(min=0.0)
    return (triangles * 2.0 / (upper - lower)).float()
