"""Intervals that cover, and differences that pair the clips."""

import numpy as np
import pytest

from omni_avsr.bootstrap import bootstrap_interval, paired_difference
from omni_avsr.error_counts import ClipCounts, ErrorCounts, wer


def clip(id_: str, errors: int, length: int, speaker: str | None = None) -> ClipCounts:
    counts = ErrorCounts(errors, 0, 0, length)
    return ClipCounts(id_, speaker, counts, counts)


def test_intervals_cover_the_true_rate_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    true_rate, covered = 0.2, 0
    for repeat in range(200):
        errors = generator.binomial(10, generator.beta(2, 8, size=80))
        interval = bootstrap_interval(
            [clip(str(i), e, 10) for i, e in enumerate(errors)], seed=repeat, num_resamples=500
        )
        covered += interval.low <= true_rate <= interval.high
    assert 0.89 <= covered / 200 <= 0.99


def test_interval_depends_on_the_seed_alone_and_widens_with_its_level() -> None:
    clips = [clip(str(i), i % 4, 5 + i % 7) for i in range(30)]
    assert bootstrap_interval(clips, seed=1) == bootstrap_interval(clips, seed=1)
    assert bootstrap_interval(clips, seed=1) != bootstrap_interval(clips, seed=2)
    narrow, wide = bootstrap_interval(clips, seed=1, level=0.5), bootstrap_interval(clips, seed=1, level=0.99)
    assert wide.low < narrow.low < wer(clips) < narrow.high < wide.high


def test_resampling_speakers_widens_the_interval_when_their_clips_are_alike() -> None:
    clips = [clip(f"{speaker}-{i}", speaker, 10, str(speaker)) for speaker in range(6) for i in range(20)]
    by_clip = bootstrap_interval(clips, seed=0)
    by_speaker = bootstrap_interval(clips, seed=0, groups=[c.speaker or "" for c in clips])
    assert by_speaker.high - by_speaker.low > 3 * (by_clip.high - by_clip.low)
    # Twenty identical clips of a speaker tell as much as one.
    singles = bootstrap_interval([clip(str(s), s, 10) for s in range(6)], seed=0)
    assert (by_speaker.low, by_speaker.high) == pytest.approx((singles.low, singles.high))
    with pytest.raises(ValueError, match="two or more"):
        bootstrap_interval(clips, seed=0, groups=["s1"] * len(clips))


def test_paired_difference_of_the_same_input_is_zero_whatever_its_order() -> None:
    clips = [clip(str(i), i % 3, 6) for i in range(40)]
    difference = paired_difference(clips, clips[::-1], seed=0)
    assert (difference.value, difference.interval.low, difference.interval.high) == (0, 0, 0)
    assert difference.num_clips == 40


def test_paired_difference_is_a_minus_b_and_sees_what_separate_intervals_miss() -> None:
    generator = np.random.default_rng(0)
    errors = generator.integers(1, 9, size=60)
    better = [clip(str(i), e - generator.integers(2), 10) for i, e in enumerate(errors)]
    worse = [clip(str(i), e, 10) for i, e in enumerate(errors)]
    difference = paired_difference(better, worse, seed=0)
    assert difference.value == pytest.approx(wer(better) - wer(worse))
    assert difference.interval.high < 0
    assert bootstrap_interval(better, seed=0).high > bootstrap_interval(worse, seed=0).low


def test_unmatched_clips_are_named() -> None:
    with pytest.raises(ValueError, match="2 without a partner: b, c"):
        paired_difference([clip("a", 0, 1), clip("b", 0, 1)], [clip("a", 0, 1), clip("c", 0, 1)], seed=0)
    with pytest.raises(ValueError, match="other lengths, such as a"):
        paired_difference([clip("a", 0, 1)], [clip("a", 0, 2)], seed=0)


def test_empty_references_may_be_drawn_alone_but_not_make_a_corpus() -> None:
    clips = [clip("silence", 2, 0), clip("speech", 0, 2)]
    interval = bootstrap_interval(clips, seed=0)
    assert interval.low == 0.0
    assert np.isfinite(interval.high)
    with pytest.raises(ValueError, match="all 1 references are empty"):
        bootstrap_interval(clips[:1], seed=0)
