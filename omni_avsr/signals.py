"""What a recording tells before it is encoded: whether its sound and its pictures can be of any use."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from omni_avsr.data.activity import FRAME, SMOOTHING, speech_activity

SILENCE_POWER = 1e-8
"""Power (-80 dB of full scale) below which sound is hardly more than the rounding of 16-bit samples."""
PAUSES = 0.1
"""Share of a recording that is taken to be pauses: its quietest part tells how loud the noise is."""
FLAT = 4.0
"""Standard deviation of grey levels (of 255) below which a frame shows nothing: black, white, fog."""


def is_silent(waveform: Tensor) -> bool:
    """[samples] float: whether nothing is in it."""
    return waveform.numel() == 0 or float(waveform.double().square().mean()) < SILENCE_POWER


def estimate_snr(waveform: Tensor) -> float:
    """Speech power over noise power in dB, without knowing either: [samples] float at 16 kHz -> dB; -inf for silence.

    The noise is as loud as the quietest tenth of the recording, in stretches of 0.1 s; what the active part
    (``speech_activity``) has beyond that is speech. Within some 2 dB of the truth from 0 to 20 dB. Babble has no
    pauses of its own, so below 0 dB it reads as about -2 dB whatever it is; steady noise is told down to -10 dB.
    """
    if is_silent(waveform):
        return -math.inf
    power = F.avg_pool1d(waveform.double().square()[None], FRAME, ceil_mode=True)
    smooth = F.avg_pool1d(power, min(SMOOTHING, power.shape[1]), stride=1)[0]
    noise = max(float(smooth.quantile(PAUSES)), SILENCE_POWER)
    speech = float(waveform.double()[speech_activity(waveform)].square().mean()) - noise
    return 10 * math.log10(max(speech, SILENCE_POWER) / noise)


def visible_share(crops: np.ndarray) -> float:
    """[T, height, width] uint8: the share of frames that show anything at all."""
    if len(crops) == 0:
        return 0.0
    return float((crops.reshape(len(crops), -1).std(axis=1) >= FLAT).mean())
