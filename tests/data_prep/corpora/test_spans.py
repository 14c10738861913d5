"""Cutting long clips between words: properties over random word times, and what a natural cut is."""

import random
from itertools import pairwise

import pytest

from data_prep.corpora.spans import MARGIN_SHARE, MAX_SECONDS, Piece, cut_between_words
from omni_avsr.types import Word


def words_at(*times: tuple[float, float]) -> list[Word]:
    return [Word(f"w{number}", start, end) for number, (start, end) in enumerate(times)]


def evenly(count: int, length: float = 0.5, pause: float = 0.0) -> list[Word]:
    starts = [number * (length + pause) for number in range(count)]
    return words_at(*((start, start + length) for start in starts))


def random_words(generator: random.Random) -> list[Word]:
    """Up to 120 words with pauses of all lengths, some without length, some overlapping, and some far too long."""
    words = []
    time = generator.choice([0.0, 0.3, 40.0])
    for number in range(generator.randint(1, 120)):
        length = generator.choices([generator.uniform(0, 1), 0.0, generator.uniform(14, 20)], [50, 1, 0.5])[0]
        start = max(0.0, time - generator.choices([0.0, 0.2], [20, 1])[0])
        words.append(Word(f"w{number}", start, start + length))
        pause = generator.choices([0.0, generator.expovariate(2), generator.uniform(5, 40)], [10, 10, 0.5])[0]
        time = max(time, start + length) + pause
    if generator.random() < 0.5:
        words = [Word(word.text, round(word.start, 2), round(word.end, 2)) for word in words]
    return words


def times_in_recording(piece: Piece) -> list[tuple[str, float, float]]:
    return [(word.text, word.start + piece.start, word.end + piece.start) for word in piece.words]


@pytest.mark.parametrize("seed", range(300))
def test_pieces_cover_every_word_once_and_never_overlap(seed: int) -> None:
    generator = random.Random(seed)
    words = random_words(generator)
    limit = generator.choice([MAX_SECONDS, 5.0, 1.0])
    pieces = cut_between_words(words, limit)
    covered = [time for piece in pieces for time in times_in_recording(piece)]
    assert [text for text, _, _ in covered] == [word.text for word in words]
    for (_, start, end), word in zip(covered, words, strict=True):
        assert (start, end) == (pytest.approx(word.start, abs=1e-4), pytest.approx(word.end, abs=1e-4))
    for piece in pieces:
        assert 0 <= piece.start <= piece.end
        assert all(-1e-9 <= word.start <= word.end <= piece.seconds + 1e-4 for word in piece.words)
        assert piece.fits == (piece.seconds <= limit + 1e-9)
        lengths = max(word.end for word in piece.words) - min(word.start for word in piece.words)
        assert piece.fits or lengths > limit - 1e-3, "only what cannot be cut may be too long"
    for before, after in pairwise(pieces):
        assert before.end <= after.start
        pause = (max(end for _, _, end in times_in_recording(before)), min(x for _, x, _ in times_in_recording(after)))
        kept = min(sum(pause) / 2, pause[0] + limit * MARGIN_SHARE)
        full = not before.fits or before.seconds >= limit - 1e-9
        assert full or before.end == pytest.approx(kept, abs=1e-3), "a cut lies in the middle of the pause"


def test_no_words_are_no_pieces() -> None:
    assert cut_between_words([]) == []


def test_a_short_recording_is_one_piece() -> None:
    (piece,) = cut_between_words(evenly(20))
    assert (piece.start, piece.end, piece.fits) == (0.0, 11.0, True)


def test_a_cut_lies_in_the_middle_of_the_pause() -> None:
    words = words_at((0.0, 8.0), (8.5, 16.0))
    first, second = cut_between_words(words, 10.0)
    assert first.end == second.start == 8.25
    assert second.words == (Word("w1", 0.25, 7.75),)


def test_each_side_of_a_long_pause_keeps_a_margin() -> None:
    first, second = cut_between_words(words_at((2.0, 3.0), (60.0, 61.0)))
    assert (first.start, first.end, second.start, second.end) == (1.0, 4.0, 59.0, 62.0)


def test_without_pauses_pieces_are_even() -> None:
    pieces = cut_between_words(evenly(80))
    assert [len(piece.words) for piece in pieces] == pytest.approx([27, 27, 26], abs=2)
    assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]


def test_a_long_pause_is_preferred_to_an_even_cut() -> None:
    words = [*evenly(12), *(Word("late", word.start + 6.6, word.end + 6.6) for word in evenly(26))]
    first, second = cut_between_words(words)
    assert (len(first.words), len(second.words)) == (12, 26)
    assert first.end == pytest.approx(6.3)


def test_a_pause_at_the_edge_does_not_leave_a_single_word() -> None:
    words = [Word("so", 0.0, 0.5), *(Word("on", word.start + 1.2, word.end + 1.2) for word in evenly(35))]
    assert min(len(piece.words) for piece in cut_between_words(words)) > 10


@pytest.mark.parametrize("length", [16.0, 15.5, 15.2])
def test_a_word_that_just_fits_gives_up_its_margins(length: float) -> None:
    words = words_at((0.0, 5.0), (6.0, 6.0 + length), (7.0 + length, 9.0 + length))
    before, long, after = cut_between_words(words)
    assert long.fits
    assert long.seconds == pytest.approx(16.0)
    assert long.start >= before.end
    assert long.end <= after.start


def test_a_word_longer_than_a_piece_does_not_fit_and_spares_the_rest() -> None:
    words = words_at((0.0, 5.0), (6.0, 22.5), (23.0, 25.0))
    pieces = cut_between_words(words)
    assert [piece.fits for piece in pieces] == [True, False, True]
    assert (pieces[1].start, pieces[1].end) == (6.0, 22.5)


def test_words_that_overlap_stay_together() -> None:
    words = words_at((0.0, 9.0), (8.0, 10.0), (10.0, 18.0))
    assert [[word.text for word in piece.words] for piece in cut_between_words(words)] == [["w0", "w1"], ["w2"]]


def test_a_long_recording_is_cut_fast() -> None:
    pieces = cut_between_words(evenly(20_000, 0.3, 0.05))
    assert sum(len(piece.words) for piece in pieces) == 20_000
    assert max(piece.seconds for piece in pieces) <= MAX_SECONDS
