"""Bootstrap intervals of error rates, and of the difference between two systems on the same clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omni_avsr.error_counts import ClipCounts, Unit, error_rate

NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A percentile bootstrap interval; the bounds are fractions."""

    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Difference:
    """Error rate of a minus error rate of b over the same clips, as a fraction; negative means that a is better."""

    value: float
    interval: Interval
    num_clips: int


def bootstrap_interval(
    clips: Sequence[ClipCounts],
    unit: Unit = "words",
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    groups: Sequence[str] | None = None,
) -> Interval:
    """Percentile interval of the error rate, resampling clips, or whole groups of clips (such as speakers).

    groups: the group of each clip, in the order of ``clips``. Clips of a speaker err alike, so intervals that are to
        hold for new speakers need it; at least two groups, or ValueError.
    """
    error_rate(clips, unit)  # an interval of no rate is an error
    sums = _resampled_sums(_matrix(clips, unit), groups, seed, num_resamples)
    return _percentile_interval(_ratios(sums), level)


def paired_difference(
    clips_a: Sequence[ClipCounts],
    clips_b: Sequence[ClipCounts],
    unit: Unit = "words",
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    groups: Sequence[str] | None = None,
) -> Difference:
    """Error rate of a minus that of b; each resample draws the same clips for both (``groups``: in a's order).

    ValueError if the two do not hold exactly the same clips, or a clip's references differ in length.
    """
    by_id = {clip.id: clip for clip in clips_b}
    unmatched = sorted({clip.id for clip in clips_a} ^ set(by_id))
    if unmatched or len(clips_a) != len(clips_b):
        named = ", ".join(unmatched[:5]) or "none, but some occur twice"
        raise ValueError(f"{len(clips_a)} clips against {len(clips_b)}; {len(unmatched)} without a partner: {named}")
    clips_b = [by_id[clip.id] for clip in clips_a]
    unequal = [a.id for a, b in zip(clips_a, clips_b, strict=True) if a.of(unit).length != b.of(unit).length]
    if unequal:
        raise ValueError(f"{len(unequal)} clips have references of other lengths, such as {', '.join(unequal[:5])}")
    value = error_rate(clips_a, unit) - error_rate(clips_b, unit)
    both = np.concatenate([_matrix(clips_a, unit), _matrix(clips_b, unit)], axis=1)
    sums = _resampled_sums(both, groups, seed, num_resamples)
    return Difference(value, _percentile_interval(_ratios(sums[:, :2]) - _ratios(sums[:, 2:]), level), len(clips_a))


def _matrix(clips: Sequence[ClipCounts], unit: Unit) -> np.ndarray:
    """[clips, 2]: errors and reference length."""
    return np.array([(clip.of(unit).errors, clip.of(unit).length) for clip in clips], dtype=np.float64)


def _resampled_sums(values: np.ndarray, groups: Sequence[str] | None, seed: int, num_resamples: int) -> np.ndarray:
    """[clips, columns] -> [resamples, columns]: column sums over clips (or groups) drawn with replacement."""
    if groups is not None:
        names, group_of_clip = np.unique(np.asarray(groups), return_inverse=True)
        if len(names) < 2 or len(groups) != len(values):
            raise ValueError(f"resampling groups takes two or more: {len(names)} for {len(groups)}/{len(values)} clips")
        values = (np.arange(len(names))[:, None] == group_of_clip).astype(np.float64) @ values
    generator = np.random.default_rng(seed)
    num_rows = len(values)
    chunk = max(1, 2_000_000 // num_rows)
    sums = []
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        # How often each row was drawn, as a matrix product's left side: no [resamples, clips, columns] is ever built.
        drawn = generator.integers(num_rows, size=(size, num_rows)) + num_rows * np.arange(size)[:, None]
        times_drawn = np.bincount(drawn.ravel(), minlength=size * num_rows).reshape(size, num_rows)
        sums.append(times_drawn.astype(np.float64) @ values)
    return np.concatenate(sums)


def _ratios(sums: np.ndarray) -> np.ndarray:
    """Errors over length per resample; nan where a resample holds only empty references."""
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)


def _percentile_interval(samples: np.ndarray, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    low, high = np.nanquantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)
