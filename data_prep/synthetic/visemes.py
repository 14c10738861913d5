"""Phonemes to the movement of a mouth: a shape for each phoneme, and how neighbouring shapes run into each other.

Coarticulation follows Cohen and Massaro (1993): around its middle each phoneme dominates the mouth with a strength
that falls off exponentially, and the mouth is the mean of all shapes weighted by their dominance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from data_prep.synthetic.voice import Phoneme

REACH = 0.055
"""Seconds after which a phoneme's dominance has fallen to 37 %."""


@dataclass(frozen=True)
class Mouth:
    """A shape of the mouth. Every measure goes from 0 to 1, but ``wide``, which goes from -1 (pursed) to 1 (spread).

    opening: between the lips. rounded: lips pushed forward. tucked: lower lip under the upper teeth. teeth, tongue:
    how much of them is seen in the opening.
    """

    opening: float = 0.0
    wide: float = 0.0
    rounded: float = 0.0
    tucked: float = 0.0
    teeth: float = 0.0
    tongue: float = 0.0


NUM_MEASURES = len(astuple(Mouth()))
REST = Mouth(0.02)

# A shape, and how strongly it insists on itself: lips must close for p, while h takes the shape of what is around it.
_SHAPES = {
    "closed": (Mouth(0.0, 0.0), 4.0),
    "lip_teeth": (Mouth(0.12, 0.1, 0.0, 1.0, 0.8), 3.0),
    "tongue_teeth": (Mouth(0.25, 0.1, 0.0, 0.0, 0.5, 1.0), 1.6),
    "alveolar": (Mouth(0.2, 0.25, 0.0, 0.0, 0.8, 0.2), 0.7),
    "lateral": (Mouth(0.32, 0.15, 0.0, 0.0, 0.5, 0.8), 0.9),
    "palatal": (Mouth(0.28, -0.45, 0.7, 0.0, 0.9), 1.5),
    "velar": (Mouth(0.3, 0.1, 0.0, 0.0, 0.3), 0.5),
    "breath": (Mouth(0.3), 0.1),
    "r": (Mouth(0.22, -0.45, 0.5, 0.0, 0.3), 1.1),
    "w": (Mouth(0.1, -0.9, 1.0), 2.2),
    "ah": (Mouth(0.95, 0.05, 0.0, 0.0, 0.3, 0.3), 1.2),
    "ae": (Mouth(0.8, 0.45, 0.0, 0.0, 0.5, 0.3), 1.2),
    "eh": (Mouth(0.55, 0.5, 0.0, 0.0, 0.5, 0.2), 1.0),
    "uh": (Mouth(0.5, 0.0, 0.0, 0.0, 0.3, 0.1), 0.8),
    "er": (Mouth(0.4, -0.35, 0.45, 0.0, 0.3), 1.1),
    "aw": (Mouth(0.75, -0.5, 0.6), 1.2),
    "oh": (Mouth(0.5, -0.7, 0.85), 1.3),
    "oo": (Mouth(0.2, -0.9, 1.0), 1.4),
    "ih": (Mouth(0.35, 0.4, 0.0, 0.0, 0.6, 0.1), 0.8),
    "ee": (Mouth(0.25, 0.95, 0.0, 0.0, 0.9), 1.2),
    "schwa": (Mouth(0.32, 0.0, 0.0, 0.0, 0.3), 0.4),
    "rest": (REST, 0.8),
}

_PHONEMES = {
    "closed": "p b m",
    "lip_teeth": "f v",
    "tongue_teeth": "T D",
    "alveolar": "t d n s z t# t2 d# z/2",
    "lateral": "l L l/",
    "palatal": "S Z tS dZ j ;",
    "velar": "k g N x",
    "breath": "h ? Q",
    "r": "r r- R *",
    "w": "w w#",
    "ah": "A: aa A A#",
    "ae": "a a# a2 &",
    "eh": "E E2",
    "uh": "V V2 VR",
    "er": "3 3: 3r",
    "aw": "0 O O2 O: 0# 02",
    "oo": "u: U u U#",
    "ih": "I I2 I#",
    "ee": "i: i e:",
    "schwa": "@ @2 @5 @-",
    "rest": "_ _: _!",
}
_DIPHTHONGS = {
    "aI": ("ah", "ee"),
    "aI@": ("ah", "ee", "schwa"),
    "aI3": ("ah", "ee", "er"),
    "aU": ("ah", "oo"),
    "aU@": ("ah", "oo", "schwa"),
    "eI": ("eh", "ee"),
    "OI": ("aw", "ee"),
    "oU": ("oh", "oo"),
    "e@": ("eh", "er"),
    "i@": ("ee", "schwa"),
    "i@3": ("ee", "er"),
    "O@": ("aw", "er"),
    "o@": ("aw", "er"),
    "U@": ("oo", "schwa"),
    "A@": ("ah", "er"),
    "@L": ("schwa", "lateral"),
}
VISEMES: dict[str, tuple[str, ...]] = _DIPHTHONGS | {
    symbol: (shape,) for shape, symbols in _PHONEMES.items() for symbol in symbols.split()
}
"""The shapes that a phoneme of eSpeak NG's English passes through, by its symbol."""


def mouth_track(phonemes: Sequence[Phoneme], times: np.ndarray) -> np.ndarray:
    """The mouth's measures at some times.

    Args:
        phonemes: with their times in seconds; before and after them the mouth is at rest.
        times: [T] seconds.

    Returns:
        [T, measures], in the order of ``Mouth``'s fields.

    Raises:
        ValueError: a phoneme has no shape here.
    """
    middles, shapes, strengths = [], [], []
    for name, middle in _targets(phonemes):
        shape, strength = _SHAPES[name]
        middles.append(middle)
        shapes.append(astuple(shape))
        strengths.append(strength)
    distance = np.abs(times[:, None] - np.array(middles)[None])
    # Scaled by the largest, so that far from all phonemes the weights do not vanish together.
    exponent = np.log(np.array(strengths)) - distance / REACH
    weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)) @ np.array(shapes)


def _targets(phonemes: Sequence[Phoneme]) -> list[tuple[str, float]]:
    """Names of shapes with the times at which the mouth comes closest to them."""
    if not phonemes:
        return [("rest", 0.0)]
    targets = [("rest", phonemes[0].start - 2 * REACH)]
    for phoneme in phonemes:
        if phoneme.symbol not in VISEMES:
            raise ValueError(f"no shape of the mouth is known for eSpeak NG's phoneme {phoneme.symbol!r}")
        names = VISEMES[phoneme.symbol]
        step = (phoneme.end - phoneme.start) / len(names)
        targets += [(name, phoneme.start + (place + 0.5) * step) for place, name in enumerate(names)]
    return [*targets, ("rest", phonemes[-1].end + 2 * REACH)]
