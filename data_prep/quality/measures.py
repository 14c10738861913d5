"""What the histograms show: a number per clip, and the bins that suit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.quality.counts import by_split
from omni_avsr.types import Clip

MAX_BINS = 40
MAX_GROUPS = 4
"""Splits that are told apart in one chart; more lines could not be followed."""


@dataclass(frozen=True)
class Measure:
    """A number that a clip has or lacks (None).

    whole: values are whole numbers, of which each gets a bar while there is room.
    maximum: where the scale ends; None fits it to the values.
    logarithmic: clips are counted on a logarithmic scale, all splits together, so that a few bad clips among very many
        good ones are seen.
    """

    title: str
    label: str
    unit: str
    value: Callable[[Clip], float | None]
    whole: bool = False
    maximum: float | None = None
    logarithmic: bool = False


MEASURES = (
    Measure("Length", "seconds", "s", lambda clip: clip.seconds),
    Measure("Words per clip", "words", "words", lambda clip: len(clip.text.split()), whole=True),
    Measure("Face size", "pixels of the source", "px", lambda clip: clip.quality.get("face_size")),
    Measure("Frames with a face", "% of the clip's frames", "%", lambda clip: _detected_percent(clip), maximum=100,
            logarithmic=True),
)  # fmt: skip


def values_by_split(measure: Measure, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
    """The values [clips] of each split that has any, the largest split first."""
    groups = {"all clips": clips} if measure.logarithmic else by_split(clips, MAX_GROUPS)
    values = {name: [v for clip in group if (v := measure.value(clip)) is not None] for name, group in groups.items()}
    return {name: np.array(numbers, dtype=float) for name, numbers in values.items() if numbers}


def bin_edges(measure: Measure, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Edges of bins of one width that begin at zero.

    A few far larger values do not squeeze all others into one bin: the last bin is then for everything beyond.
    """
    together = np.concatenate(list(values.values()))
    if measure.maximum is not None:
        return np.linspace(0, measure.maximum, MAX_BINS + 1)
    most = float(np.quantile(together, 0.995))
    maximum = float(together.max()) if together.max() <= 2 * most else most
    if measure.whole:
        step = max(1, int(np.ceil((maximum + 1) / MAX_BINS)))
        return np.arange(0, maximum + step + 1, step) - 0.5
    return np.linspace(0, max(maximum, 1e-9) * 1.02, MAX_BINS + 1)


def _detected_percent(clip: Clip) -> float | None:
    detected = clip.quality.get("detected")
    return None if detected is None else 100 * detected
