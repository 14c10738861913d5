"""Where in a clip somebody speaks: the part over which the level of speech is measured."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from omni_avsr.features import SAMPLE_RATE

FRAME = SAMPLE_RATE // 50
"""Samples of one decision (20 ms)."""
SMOOTHING = 5
"""Frames (0.1 s) whose median stands for the one in their middle."""
MARGIN_DB = 15.9
"""How far below the level of the active part a frame may be and still belong to it (ITU-T P.56)."""
HANGOVER = 10
"""Frames (0.2 s) for which speech goes on after a loud frame, so that short pauses are part of it (ITU-T P.56)."""
CLICK_RATIO = 4.0
"""A frame's power counts up to so many times (6 dB) the median of its neighbours: what is above that is a click."""


def speech_activity(waveform: Tensor) -> Tensor:
    """Which samples are speech, by energy: [samples] float -> [samples] bool. Silence has none.

    The rule is that of ITU-T P.56 (active speech level, method B), by which speech is levelled and mixed elsewhere: the
    threshold lies 15.9 dB below the power of the part that is above it. It needs no level to be given, and it is above
    any noise of the recording that is 15.9 dB below the whole. In place of P.56's envelope, the mean amplitude of 20 ms
    frames is smoothed by a median: a click is no speech, and does not lift the threshold.
    """
    if not bool(waveform.any()):
        return torch.zeros_like(waveform, dtype=torch.bool)
    loudness = _smooth(_frame_means(waveform.double().abs())).square()
    power = _frame_means(waveform.double().square())
    power = torch.minimum(power, CLICK_RATIO * _smooth(power))
    loud = torch.ones_like(loudness, dtype=torch.bool)
    while True:
        active = F.max_pool1d(F.pad(loud.float(), (HANGOVER, 0))[None], HANGOVER + 1, stride=1)[0] > 0
        louder = loud & (loudness >= power[active].mean() * 10 ** (-MARGIN_DB / 10))
        # Each round leaves frames out or is the last one. A train of clicks would leave out all.
        if torch.equal(louder, loud) or not bool(louder.any()):
            return active.repeat_interleave(FRAME)[: len(waveform)]
        loud = louder


def _frame_means(values: Tensor) -> Tensor:
    """[samples] -> [frames]; what is left over at the end is a frame of its own."""
    return F.avg_pool1d(values[None], FRAME, ceil_mode=True)[0]


def _smooth(values: Tensor) -> Tensor:
    """The median of each value's neighbours and itself; the first and the last value go on beyond the ends."""
    around = F.pad(values[None], [SMOOTHING // 2] * 2, mode="replicate")[0].unfold(0, SMOOTHING, 1)
    return around.median(dim=1).values
