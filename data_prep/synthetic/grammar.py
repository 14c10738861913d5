"""Sentences of a small grammar: five words, each from a slot of its own, all equally likely."""

from __future__ import annotations

import math

import numpy as np

SLOTS = (
    ("move", "find", "show", "push", "throw", "hide"),
    ("red", "blue", "white", "green", "yellow", "purple", "orange", "black"),
    ("ball", "fish", "shoe", "tiger", "lemon", "flower", "map", "window"),
    ("above", "near", "with", "through", "over", "behind"),
    ("bob", "sue", "tom", "mary", "fred", "george", "amy", "leo"),
)
"""What may stand at each place. Words were chosen to look and sound unlike the others of their slot."""

NUM_SENTENCES = math.prod(len(slot) for slot in SLOTS)


def sentence(number: int) -> tuple[str, ...]:
    """The words of sentence ``number``, 0 to NUM_SENTENCES - 1."""
    words = []
    for slot in reversed(SLOTS):
        number, place = divmod(number, len(slot))
        words.append(slot[place])
    return tuple(reversed(words))


def draw_sentences(count: int, random: np.random.Generator) -> list[int]:
    """Numbers of ``count`` different sentences, in random order. ValueError when the grammar has not so many."""
    if count > NUM_SENTENCES:
        raise ValueError(f"the grammar has {NUM_SENTENCES} sentences, {count} different ones were asked for")
    return random.permutation(NUM_SENTENCES)[:count].tolist()
