"""Where long recordings are cut."""

from itertools import pairwise

import numpy as np
import pytest

from omni_avsr.types import Word
from omni_avsr.windows import MARGIN, Window, cut, join_words, loud_times, overlapping


@pytest.mark.parametrize(("seconds", "longest"), [(2.0, 3.0), (3.0, 3.0), (3.1, 3.0), (60.0, 3.0), (61.7, 15.0)])
def test_windows_decide_on_every_moment_once_and_hear_around_it(seconds: float, longest: float) -> None:
    windows = overlapping(seconds, longest)
    assert windows[0].start == windows[0].begin == 0
    assert windows[-1].stop == seconds
    for window in windows:
        assert window.start <= window.begin < window.stop <= window.end + 1e-9
        assert window.end - window.start <= longest + 1e-9
        assert window.end <= seconds + 1e-9
    for before, after in pairwise(windows):
        assert before.stop == pytest.approx(after.begin)
        assert before.end - before.stop >= longest / 6 - 1e-9
        assert after.begin - after.start >= longest / 6 - 1e-9


def sentences(count: int, pause: float = 1.0, seconds: float = 2.0) -> list[float]:
    """Something is said each 0.1 s, in sentences with pauses between them."""
    return [number * (seconds + pause) + t for number in range(count) for t in np.arange(0.5, 0.5 + seconds, 0.1)]


@pytest.mark.parametrize("overlap", [0.0, 1.0])
def test_cuts_are_at_the_longest_pauses_where_nothing_overlaps(overlap: float) -> None:
    windows = cut(sentences(20), 60.0, 3.6, overlap)
    assert len(windows) == 20
    for number, window in enumerate(windows):
        assert window.start == pytest.approx(3 * number + 0.5 - MARGIN)
        assert window.end == pytest.approx(3 * number + 2.4 + MARGIN)


@pytest.mark.parametrize("overlap", [0.0, 0.7, 100.0])
@pytest.mark.parametrize("seed", range(5))
def test_every_moment_is_one_windows_and_no_window_is_too_long(seed: int, overlap: float) -> None:
    random = np.random.default_rng(seed)
    gaps = random.exponential(0.05, 800) + (random.random(800) < 0.01) * random.uniform(0, 3, 800)
    active = np.cumsum(gaps).tolist()
    seconds = active[-1] + 2.0
    windows = cut(active, seconds, 4.0, overlap)
    for window in windows:
        assert 0 <= window.start < window.end <= seconds
        assert window.end - window.start <= 4.0 + 1e-9
    assert all(before.stop <= after.begin for before, after in pairwise(windows))
    assert all(sum(w.begin <= time <= w.stop and w.start <= time <= w.end for w in windows) == 1 for time in active)
    reaches = [before.end - after.begin for before, after in pairwise(windows)]
    if overlap:
        assert sum(reach > 0.5 for reach in reaches) > len(windows) / 4, "in quick speech windows overlap"
    else:
        assert max(reaches) <= 1e-9


def test_speech_without_any_pause_is_cut_all_the_same() -> None:
    [alone] = cut([5.0], 100.0, 3.0)
    assert (alone.start, alone.end) == (5.0 - MARGIN, 5.0 + MARGIN)
    assert all(window.end - window.start <= 3.0 for window in cut([0.0, 9.0], 9.0, 3.0, 1.0))


def spoken(text: str, start: float, seconds: float = 0.3) -> list[Word]:
    return [Word(word, start + i * seconds, start + (i + 1) * seconds) for i, word in enumerate(text.split())]


FIRST, SECOND = Window(0.0, 3.0, 0.0, 2.0), Window(1.0, 4.0, 2.0, 4.0)
"""Two windows that both hear what is said from 1 s to 3 s, with a cut at 2 s."""


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # Each window breaks off in a word.
        (spoken("a b c d e f g h i xx", 0.0), spoken("yy e f g h i j k l m", 0.9), "a b c d e f g h i j k l m"),
        # The word at the cut is placed a little before it by one window and a little behind it by the other ...
        (spoken("a b c d e f", 0.1), spoken("d e f g h", 1.15), "a b c d e f g h"),
        # ... or the other way round.
        (spoken("a b c d e f g h", 0.2), spoken("e f g h", 1.25), "a b c d e f g h"),
        # The same word twice is twice one.
        (spoken("a b c d no no no e", 0.2), spoken("no no no e f", 1.35), "a b c d no no no e f"),
        # They agree on nothing near the cut: each is believed on its own side.
        (spoken("a b c d e f p q", 0.1), spoken("r s t g h i", 1.2), "a b c d e f g h i"),
        (spoken("a b c", 0.1), [], "a b c"),
        ([], spoken("g h", 2.2), "g h"),
    ],
)
def test_what_two_windows_hear_is_written_once(before: list[Word], after: list[Word], expected: str) -> None:
    joined = join_words([(FIRST, before), (SECOND, after)])
    assert " ".join(word.text for word in joined) == expected
    assert all(one.start < other.start for one, other in pairwise(joined))


def test_windows_that_do_not_overlap_keep_all_their_words() -> None:
    apart = Window(3.0, 5.0, 2.5, 5.0)
    words = spoken("a b", 0.0), spoken("b c", 3.1)
    assert join_words([(FIRST, words[0]), (apart, words[1])]) == [*words[0], *words[1]]


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
