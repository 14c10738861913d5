"""When the words of a known text were spoken: the best path of a CTC head through that text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from omni_avsr.encoders.ctc import BLANK, SPACE, encode_text
from omni_avsr.types import Word

LONGEST_GAP = 0.3
"""Seconds between two characters of one word; what lies further from the rest of the word does not tell its time."""


def align_words(log_probs: np.ndarray, words: Sequence[str], frame_rate: float) -> tuple[Word, ...]:
    """Times of ``words``, in seconds from the first frame.

    A word lasts from the first frame of its first character to the last frame of its last one, but for stray ones: an
    encoder that sees the whole clip may write the first character of a sentence at once. Characters that the CTC
    head does not know are passed over. Where the frames are too few for the text, or a word has no known character,
    words share the time there evenly.

    Args:
        log_probs: [T, characters + 1] of one clip, without padding.
        words: as they are to be shown; they are read in lower case.
        frame_rate: frames a second.
    """
    spelled = [encode_text(word.lower()) for word in words]
    labels: list[int] = []
    owners: list[int] = []
    for index, ids in enumerate(spelled):
        if ids:
            gap = [SPACE] if labels else []
            labels += [*gap, *ids]
            owners += [-1] * len(gap) + [index] * len(ids)
    path = best_path(log_probs, labels)
    frames: dict[int, list[int]] = {}
    for frame, place in enumerate(path):
        if place >= 0 and owners[place] >= 0:
            frames.setdefault(owners[place], []).append(frame)
    spans = {owner: _together(found, max(1.0, LONGEST_GAP * frame_rate)) for owner, found in frames.items()}
    return _spread(words, spans, len(log_probs), frame_rate)


def best_path(log_probs: np.ndarray, labels: Sequence[int]) -> list[int]:
    """For each frame the place in ``labels`` that it belongs to, -1 for blank; empty when no path exists.

    The Viterbi path through labels with blanks between them (Graves and others, 2006, section 4.1).
    """
    if not labels or not len(log_probs):
        return []
    states = np.full(2 * len(labels) + 1, BLANK)
    states[1::2] = labels
    num_states = len(states)
    # A blank may be left out between two different labels.
    skippable = np.zeros(num_states, bool)
    skippable[3::2] = states[3::2] != states[1:-2:2]
    scores = np.full(num_states, -np.inf)
    scores[:2] = log_probs[0, states[:2]]
    origins = np.zeros((len(log_probs), num_states), np.int8)
    for frame in range(1, len(log_probs)):
        arrivals = np.stack([scores, np.roll(scores, 1), np.where(skippable, np.roll(scores, 2), -np.inf)])
        arrivals[1, 0] = arrivals[2, :2] = -np.inf
        origins[frame] = arrivals.argmax(axis=0)
        scores = arrivals.max(axis=0) + log_probs[frame, states]
    state = num_states - 1 - int(scores[-2] > scores[-1])
    if not np.isfinite(scores[state]):
        return []
    path = [state]
    for frame in range(len(log_probs) - 1, 0, -1):
        state -= int(origins[frame, state])
        path.append(state)
    return [state // 2 if state % 2 else -1 for state in reversed(path)]


def _together(frames: Sequence[int], longest_gap: float) -> tuple[int, int]:
    """First frame and the one behind the last of the longest run of ``frames`` without a gap; the later one of two."""
    runs = [[frames[0]]]
    for before, after in pairwise(frames):
        if after - before > longest_gap:
            runs.append([])
        runs[-1].append(after)
    longest = max(reversed(runs), key=len)
    return longest[0], longest[-1] + 1


def _spread(
    words: Sequence[str], spans: dict[int, tuple[int, int]], num_frames: int, frame_rate: float
) -> tuple[Word, ...]:
    """Words with their times; those without a span share the time between their neighbours."""
    placed: list[tuple[float, float]] = []
    for index in range(len(words)):
        if index in spans:
            placed.append(spans[index])
            continue
        start = placed[-1][1] if placed else 0.0
        later = next((number for number in range(index, len(words)) if number in spans), len(words))
        end = spans[later][0] if later in spans else float(num_frames)
        placed.append((start, start + (end - start) / (later - index)))
    return tuple(
        Word(word, round(start / frame_rate, 3), round(end / frame_rate, 3))
        for word, (start, end) in zip(words, placed, strict=True)
    )
