"""Where a long recording is cut, so that every piece is one that the model can take, and how words are joined again."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from omni_avsr.types import Word

MARGIN = 0.4
"""Seconds of a pause that a piece keeps before its first sound and behind its last one, as training clips have."""

CLEAR_PAUSE = 0.3
"""Seconds of a pause that surely lies between words; around a shorter one both pieces hear what is said."""

OVERLAP = 1.0
"""Seconds that a piece goes on behind a cut that may be in a word."""

SAME_WORD = 0.4
"""Seconds that two pieces may place the same word apart."""

_SHORTEST_SHARE = 0.1
_ENERGY_FRAME = 0.02
_ENERGY_FLOOR = 0.02


@dataclass(frozen=True)
class Window:
    """Seconds ``start`` to ``end`` of a recording, which decide on what is said from ``begin`` to ``stop``."""

    start: float
    end: float
    begin: float
    stop: float


def overlapping(seconds: float, longest: float) -> list[Window]:
    """Windows over a recording, whatever is said in it.

    They are at most ``longest`` and overlap by a third. What a window says near its ends is left to its neighbour,
    which hears more of what is around; together the parts cover the recording once.
    """
    if seconds <= longest:
        return [Window(0.0, seconds, 0.0, seconds)]
    reach = longest / 6
    step = longest - 2 * reach
    count = int(np.ceil((seconds - longest) / step)) + 1
    windows = []
    for number in range(count):
        start = min(number * step, seconds - longest)
        first, last = number == 0, number == count - 1
        begin = 0.0 if first else number * step + reach
        end = seconds if last else (number + 1) * step + reach
        windows.append(Window(start, start + longest, begin, end))
    return windows


def cut(active: Sequence[float], seconds: float, longest: float, overlap: float = 0.0) -> list[Window]:
    """Cut a recording into windows that are at most ``longest`` seconds, at its longest pauses first.

    Args:
        active: ascending times in seconds at which something is said.
        seconds: of the whole recording.
        overlap: seconds that windows reach over a cut that is not in a clear pause; 0 where they cannot be joined.

    Returns:
        Windows with something said in each, in order. Of the silence around it a window keeps at most ``MARGIN``.
    """
    overlap = min(overlap, longest / 4)  # so that at least half a window is its own
    windows = []
    pending = [(0.0, seconds, 0.0, 0.0)]
    while pending:
        begin, stop, before, after = pending.pop()
        inside = active[bisect_left(active, begin) : bisect_right(active, stop)]
        if not inside:
            continue
        start = max(0.0, begin - before) if before else max(begin, inside[0] - MARGIN)
        end = min(seconds, stop + after) if after else min(stop, inside[-1] + MARGIN)
        if end - start <= longest:
            windows.append(Window(start, end, begin, stop))
            continue
        middle, pause = _longest_pause(inside, max(begin, start), min(stop, end))
        reach = 0.0 if pause >= CLEAR_PAUSE else overlap
        pending += [(middle, stop, reach, after), (begin, middle, before, reach)]
    return windows


def _longest_pause(inside: Sequence[float], start: float, end: float) -> tuple[float, float]:
    """The middle and the length of the longest pause that leaves something on both sides; else the piece's middle."""
    least = _SHORTEST_SHARE * (end - start)
    pauses = [
        (after - before, (before + after) / 2)
        for before, after in pairwise(inside)
        if start + least <= (before + after) / 2 <= end - least
    ]
    if not pauses:
        return (start + end) / 2, 0.0
    length, middle = max(pauses)
    return middle, length


def join_words(parts: Sequence[tuple[Window, Sequence[Word]]]) -> list[Word]:
    """The words of a recording from those of its windows, in order; what two windows hear, once.

    Where windows overlap, the words go over from one to the other at the word nearest to the cut that both have, and at
    the cut where they agree on none.

    Args:
        parts: words with times from the recording's start, as each window says them.
    """
    joined: list[Word] = []
    heard_until = 0.0
    for window, words in parts:
        joined = _spliced(joined, words, window, heard_until) if window.start < heard_until else [*joined, *words]
        heard_until = window.end
    return joined


def _spliced(before: Sequence[Word], after: Sequence[Word], window: Window, heard_until: float) -> list[Word]:
    """``before``, from the windows up to ``heard_until``, going over to ``after``, from ``window``."""
    tail = [index for index, word in enumerate(before) if word.end > window.start]
    head = [index for index, word in enumerate(after) if word.start < heard_until]
    same = []
    for i, j in product(tail, head):
        apart = abs(_middle(before[i]) - _middle(after[j]))
        if before[i].text == after[j].text and apart <= SAME_WORD:
            # Of a word that is said twice, the two that lie closest together are one.
            same.append((abs(_middle(before[i]) - window.begin) + 2 * apart, i, j))
    if same:
        _, i, j = min(same)
        return [*before[: i + 1], *after[j + 1 :]]
    return [
        *(word for word in before if _middle(word) < window.begin),
        *(word for word in after if _middle(word) >= window.begin),
    ]


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2


def loud_times(samples: np.ndarray, sample_rate: int) -> list[float]:
    """Times at which a waveform [samples] is loud against its own loudest parts, 50 a second at most."""
    size = round(_ENERGY_FRAME * sample_rate)
    frames = np.pad(samples, (0, -len(samples) % size)).reshape(-1, size)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    loud = power > _ENERGY_FLOOR * np.quantile(power, 0.95)
    return [(index + 0.5) * _ENERGY_FRAME for index in np.flatnonzero(loud)]
