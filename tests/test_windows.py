"""Where long recordings are cut."""

from itertools import pairwise

import numpy as np
import pytest

from omni_avsr.windows import MARGIN, cut, loud_times, overlapping


@pytest.mark.parametrize(("seconds", "longest"), [(2.0, 3.0), (3.0, 3.0), (3.1, 3.0), (60.0, 3.0), (61.7, 15.0)])
def test_windows_decide_on_every_moment_once_and_hear_around_it(seconds: float, longest: float) -> None:
    windows = overlapping(seconds, longest)
    assert windows[0][0] == windows[0][2] == 0
    assert windows[-1][3] == seconds
    for start, end, begin, stop in windows:
        assert start <= begin < stop <= end + 1e-9
        assert end - start <= longest + 1e-9
        assert end <= seconds + 1e-9
    for before, after in pairwise(windows):
        assert before[3] == pytest.approx(after[2])
        assert before[1] - before[3] >= longest / 6 - 1e-9
        assert after[2] - after[0] >= longest / 6 - 1e-9


def sentences(count: int, pause: float = 1.0, seconds: float = 2.0) -> list[float]:
    """Something is said each 0.1 s, in sentences with pauses between them."""
    return [number * (seconds + pause) + t for number in range(count) for t in np.arange(0.5, 0.5 + seconds, 0.1)]


def test_cuts_are_at_the_longest_pauses() -> None:
    pieces = cut(sentences(20), 60.0, 3.6)
    assert len(pieces) == 20
    for number, (start, end) in enumerate(pieces):
        assert start == pytest.approx(3 * number + 0.5 - MARGIN)
        assert end == pytest.approx(3 * number + 2.4 + MARGIN)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_doubled_or_lost_and_no_piece_is_too_long(seed: int) -> None:
    random = np.random.default_rng(seed)
    active = np.cumsum(random.exponential(0.15, 400) + (random.random(400) < 0.03) * random.uniform(0, 3, 400)).tolist()
    seconds = active[-1] + 2.0
    pieces = cut(active, seconds, 4.0)
    for start, end in pieces:
        assert 0 <= start < end <= seconds
        assert end - start <= 4.0 + 1e-9
    assert all(before[1] <= after[0] + 1e-9 for before, after in pairwise(pieces))
    assert all(sum(start <= time <= end for start, end in pieces) == 1 for time in active)


def test_speech_without_any_pause_is_cut_all_the_same() -> None:
    pieces = cut([5.0], 100.0, 3.0)
    assert pieces == [(5.0 - MARGIN, 5.0 + MARGIN)]
    assert all(end - start <= 3.0 for start, end in cut([0.0, 9.0], 9.0, 3.0))


def test_silence_has_no_pieces() -> None:
    assert cut([], 60.0, 3.0) == []


def test_loud_times_are_where_the_sound_is() -> None:
    random = np.random.default_rng(0)
    samples = 0.001 * random.standard_normal(32_000)
    samples[8_000:16_000] += 0.3 * random.standard_normal(8_000)
    times = loud_times(samples, 16_000)
    assert 0.5 <= min(times) < 0.53
    assert 0.97 < max(times) <= 1.0
    assert len(times) == pytest.approx(25, abs=1)
