"""Cut a long recording between its words into pieces that are short enough, by the times of the words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from omni_avsr.types import Word

MAX_SECONDS = 16.0
"""The longest piece of the published recipe (Omni-AVSR prepares LRS2 and LRS3 as auto_avsr does)."""
MARGIN_SHARE = 1 / 16
"""Of the longest piece: how much silence a piece keeps at most before its first and after its last word."""
NATURAL_PAUSE = 0.25
"""Seconds: a cut through a pause this long costs a third (1/e) of one where there is no pause."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording, in seconds [start, end), and its words with times from the piece's start.

    fits: whether it is short enough; if not, it is one word (or words that overlap) and cannot be cut.
    """

    start: float
    end: float
    words: tuple[Word, ...]
    fits: bool

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class _Block:
    """Words that no cut may part, for they overlap: mostly a single one. Times in seconds."""

    words: tuple[Word, ...]
    start: float
    end: float


def cut_between_words(words: Sequence[Word], max_seconds: float = MAX_SECONDS) -> list[Piece]:
    """The pieces of a recording with these words, in order: each word is in one piece, and pieces do not overlap.

    A cut lies in the middle of the pause between two words; of a long pause, each side keeps ``MARGIN_SHARE``. Of all
    ways to cut, the one is taken whose pieces are long and evenly so, and whose cuts go through long pauses. No piece
    is longer than ``max_seconds``, but for a word that is: it is a piece of its own, which does not fit. The recording
    itself may end before its last piece does, by as much as the piece keeps after its last word.
    """
    blocks = _blocks(words)
    if not blocks:
        return []
    margin = max_seconds * MARGIN_SHARE
    middles = [(before.end + after.start) / 2 for before, after in pairwise(blocks)]
    starts = [max(bound, block.start - margin) for bound, block in zip([0.0, *middles], blocks, strict=True)]
    ends = [min(bound, block.end + margin) for bound, block in zip([*middles, math.inf], blocks, strict=True)]
    pieces = []
    for first, stop in _best_bounds(blocks, starts, ends, max_seconds):
        start, end = starts[first], ends[stop - 1]
        fits = end - start <= max_seconds
        if not fits:  # a single block: its margins give way
            block = blocks[first]
            fits = block.end - block.start <= max_seconds
            start = max(start, block.start - max(0.0, max_seconds - (block.end - block.start)) / 2)
            end = max(block.end, min(end, start + max_seconds))
        spoken = [word for block in blocks[first:stop] for word in block.words]
        pieces.append(Piece(start, end, tuple(_moved(word, start) for word in spoken), fits))
    return pieces


def _blocks(words: Sequence[Word]) -> list[_Block]:
    latest_ends = list(accumulate((word.end for word in words), max))
    earliest_starts = list(accumulate((word.start for word in reversed(words)), min))[::-1]
    cuts = [place for place in range(1, len(words)) if latest_ends[place - 1] <= earliest_starts[place]]
    bounds = zip([0, *cuts], [*cuts, len(words)], strict=True)
    return [
        _Block(tuple(words[first:stop]), earliest_starts[first], latest_ends[stop - 1])
        for first, stop in bounds
        if first < stop
    ]


def _best_bounds(
    blocks: Sequence[_Block], starts: Sequence[float], ends: Sequence[float], max_seconds: float
) -> list[tuple[int, int]]:
    """First and last block (exclusive) of each piece of the cheapest way to cut, by dynamic programming.

    A piece costs the square of the share by which it is shorter than ``max_seconds``; a cut costs 1 without a pause,
    and less the longer the pause is. So where one piece will do, no cut is worth its cost.
    """
    if ends[-1] - starts[0] <= max_seconds:
        return [(0, len(blocks))]
    pauses = (after.start - before.end for before, after in pairwise(blocks))
    cut_costs = [0.0, *(math.exp(-pause / NATURAL_PAUSE) for pause in pauses)]
    costs = [0.0]  # of the cheapest way to cut all blocks before this one
    firsts: list[int] = []  # where the last piece of that way begins
    for last, end in enumerate(ends):
        shortfall = max(0.0, 1 - (end - starts[last]) / max_seconds)
        best, best_first = costs[last] + cut_costs[last] + shortfall * shortfall, last
        for first in range(last - 1, -1, -1):
            if end - starts[first] > max_seconds:
                break
            shortfall = 1 - (end - starts[first]) / max_seconds
            cost = costs[first] + cut_costs[first] + shortfall * shortfall
            if cost < best:
                best, best_first = cost, first
        costs.append(best)
        firsts.append(best_first)
    bounds = []
    stop = len(blocks)
    while stop:
        bounds.append((firsts[stop - 1], stop))
        stop = firsts[stop - 1]
    return bounds[::-1]


def _moved(word: Word, start: float) -> Word:
    """The word with times from ``start``, to a tenth of a millisecond."""
    return Word(word.text, round(word.start - start, 4), round(word.end - start, 4))
