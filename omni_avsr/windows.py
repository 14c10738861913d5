"""Where a long recording is cut: at its longest pauses, so that every piece is one that the model can take."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

MARGIN = 0.4
"""Seconds of a pause that a piece keeps before its first sound and behind its last one, as training clips have."""

_SHORTEST_SHARE = 0.1
_ENERGY_FRAME = 0.02
_ENERGY_FLOOR = 0.02


def overlapping(seconds: float, longest: float) -> list[tuple[float, float, float, float]]:
    """Windows over a recording, each with the part of it that it decides on: (start, end, from, to) in seconds.

    Windows are at most ``longest`` and overlap by a third. What a window says near its ends is left to its neighbour,
    which hears more of what is around; together the parts cover the recording once.
    """
    if seconds <= longest:
        return [(0.0, seconds, 0.0, seconds)]
    reach = longest / 6
    step = longest - 2 * reach
    count = int(np.ceil((seconds - longest) / step)) + 1
    windows = []
    for number in range(count):
        start = min(number * step, seconds - longest)
        first, last = number == 0, number == count - 1
        begin = 0.0 if first else number * step + reach
        end = seconds if last else (number + 1) * step + reach
        windows.append((start, start + longest, begin, end))
    return windows


def cut(active: Sequence[float], seconds: float, longest: float) -> list[tuple[float, float]]:
    """Cut a recording into pieces that are at most ``longest`` seconds, at its longest pauses first.

    Args:
        active: ascending times in seconds at which something is said.
        seconds: of the whole recording.

    Returns:
        Pieces (start, end) with something said in each, in order, that do not overlap. Of the silence around it a piece
        keeps at most ``MARGIN``.
    """
    pieces = []
    pending = [(0.0, seconds)]
    while pending:
        start, end = pending.pop()
        inside = active[bisect_left(active, start) : bisect_right(active, end)]
        if not inside:
            continue
        start, end = max(start, inside[0] - MARGIN), min(end, inside[-1] + MARGIN)
        if end - start <= longest:
            pieces.append((start, end))
            continue
        middle = _longest_pause(inside, start, end)
        pending += [(middle, end), (start, middle)]
    return pieces


def _longest_pause(active: Sequence[float], start: float, end: float) -> float:
    """The middle of the longest pause that leaves something on both sides; the middle of the piece when none does."""
    least = _SHORTEST_SHARE * (end - start)
    pauses = [
        (after - before, (before + after) / 2)
        for before, after in pairwise(active)
        if start + least <= (before + after) / 2 <= end - least
    ]
    return max(pauses)[1] if pauses else (start + end) / 2


def loud_times(samples: np.ndarray, sample_rate: int) -> list[float]:
    """Times at which a waveform [samples] is loud against its own loudest parts, 50 a second at most."""
    size = round(_ENERGY_FRAME * sample_rate)
    frames = np.pad(samples, (0, -len(samples) % size)).reshape(-1, size)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    loud = power > _ENERGY_FLOOR * np.quantile(power, 0.95)
    return [(index + 0.5) * _ENERGY_FRAME for index in np.flatnonzero(loud)]
